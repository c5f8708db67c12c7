/**
 * What one process keeps of a memory for the next: descriptors, the first of which is a memfd that
 * says what they are. Of memory files the others are the files themselves. Of an image there are no
 * others, and the memfd has the index and the companion too, as the store gave them:
 *
 * ```
 *   one line of JSON | the index's bytes | the companion's bytes
 * ```
 */
import { fstatSync, readSync, writeSync } from "node:fs";
import * as v from "valibot";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd } from "../linux/memory.ts";

/** Who is given it owns the descriptors. */
export interface KeptMemory {
  readonly fds: readonly OwnedFd[];
}

const VERSION = 1;
const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const workingSet = v.nullable(v.string());
const files = v.object({
  version: v.literal(VERSION),
  kind: v.literal("files"),
  workingSet,
  /** By which the files are known when they are opened by name again. */
  key: v.string(),
  files: v.array(v.object({ path: v.string(), sizeBytes: size, mtimeMs: v.number() })),
});
const image = v.object({
  version: v.literal(VERSION),
  kind: v.literal("image"),
  workingSet,
  store: v.string(),
  name: v.string(),
  indexBytes: size,
  /** Null: there is none. */
  infoBytes: v.nullable(size),
});
const schema = v.variant("kind", [files, image]);

export type KeptFiles = Readonly<v.InferOutput<typeof files>>;
export type KeptImage = Readonly<v.InferOutput<typeof image>>;

export interface ReadBack {
  readonly described: KeptFiles | KeptImage;
  /** Of an image. */
  readonly index: Uint8Array;
  readonly info: Uint8Array | null;
}

export function keepFiles(kept: Omit<KeptFiles, "version" | "kind">): OwnedFd {
  return memfdOf({ version: VERSION, kind: "files", ...kept }, []);
}

export function keepImage(
  kept: Pick<KeptImage, "workingSet" | "store" | "name">,
  index: Uint8Array,
  info: Uint8Array | null,
): OwnedFd {
  const sizes = { indexBytes: index.length, infoBytes: info?.length ?? null };
  const described = { version: VERSION, kind: "image", ...kept, ...sizes } as const;
  return memfdOf(described, info === null ? [index] : [index, info]);
}

/** @throws FaultlineError `image-corrupt`: it is not what a process of this version has kept */
export function readKept({ fds }: KeptMemory): ReadBack {
  const [memfd, ...others] = fds;
  assert(memfd !== undefined, "a kept memory has descriptors");
  const bytes = contentOf(memfd);
  const lineEnd = bytes.indexOf("\n");
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString("utf8", 0, lineEnd));
  } catch (cause) {
    throw unusable("it does not say what it is", cause);
  }
  const parsed = v.safeParse(schema, json);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw unusable(`${v.getDotPath(issue) ?? "it"}: ${issue.message}`);
  }
  const described = parsed.output;
  const rest = bytes.subarray(lineEnd + 1);
  if (described.kind === "files") {
    const wanted = described.files.length;
    if (wanted === others.length && wanted > 0) return { described, index: rest, info: null };
    throw unusable(`${others.length} descriptors came for ${wanted} files`);
  }
  const { indexBytes, infoBytes } = described;
  if (rest.length !== indexBytes + (infoBytes ?? 0)) throw unusable("it is cut off");
  const info = infoBytes === null ? null : rest.subarray(indexBytes);
  return { described, index: rest.subarray(0, indexBytes), info };
}

function memfdOf(described: KeptFiles | KeptImage, parts: readonly Uint8Array[]): OwnedFd {
  const memfd = createMemfd("faultline-memory");
  try {
    const bytes = Buffer.concat([Buffer.from(`${JSON.stringify(described)}\n`), ...parts]);
    for (let at = 0; at < bytes.length; ) at += writeSync(memfd.fd, bytes, at);
    return memfd;
  } catch (error) {
    memfd.close();
    throw error;
  }
}

function contentOf(memfd: OwnedFd): Buffer {
  const bytes = Buffer.alloc(fstatSync(memfd.fd).size);
  for (let at = 0; at < bytes.length; ) {
    const count = readSync(memfd.fd, bytes, at, bytes.length - at, at);
    if (count === 0) return bytes.subarray(0, at);
    at += count;
  }
  return bytes;
}

function unusable(what: string, cause?: unknown): FaultlineError {
  return new FaultlineError(
    "image-corrupt",
    `What an earlier process has kept of a memory cannot be used (${what}). Its VMs cannot be ` +
      "served on: restore them anew.",
    { cause },
  );
}
