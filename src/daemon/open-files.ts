/** Memory files of this host, as one process serves them. */
import { type BigIntStats, fstatSync, statSync } from "node:fs";
import type { OwnedFd } from "../linux/fd.ts";
import type { FileIdentity } from "../snapshot/session-file.ts";
import { MemoryFiles } from "../source/memory-files.ts";
import type { WorkingSetPlace } from "../source/working-set-place.ts";
import { assertFolder } from "./check-options.ts";
import { hostState } from "./host-state.ts";
import { type KeptFiles, keepFiles } from "./kept-memory.ts";
import type { MemorySource } from "./memory-source.ts";
import { type MemoryOptions, OFF } from "./served-memory.ts";

/** A memory file has no place of its own for what its restores need. */
export type FilesOptions = Pick<MemoryOptions, "memory" | "layers" | "workingSet">;

/**
 * By what the files are known: who they are, and how they were. Null if they cannot be looked at;
 * opening them tells why.
 */
export function filesKey({ memory, layers = [], workingSet = OFF }: FilesOptions): string | null {
  try {
    const all = [memory, ...layers].map((path) => statSync(path, { bigint: true }));
    return keyOf(all, workingSet);
  } catch {
    return null;
  }
}

/** @throws FaultlineError what is wrong with the files, or with the place of the working set */
export async function openFiles(options: FilesOptions): Promise<MemorySource> {
  const { workingSet = OFF } = options;
  const files = MemoryFiles.open(options.memory, options.layers);
  try {
    const key = keyOf(
      files.layers.fds.map((fd) => fstatSync(fd, { bigint: true })),
      workingSet,
    );
    return await sourceOf(files, key, workingSet);
  } catch (error) {
    files.close();
    throw error;
  }
}

export async function reopenFiles(
  { files: identities, key, workingSet }: KeptFiles,
  fds: readonly OwnedFd[],
): Promise<MemorySource> {
  return await sourceOf(MemoryFiles.adopt(fds, identities), key, workingSet ?? OFF);
}

async function sourceOf(
  files: MemoryFiles,
  key: string,
  workingSet: string,
): Promise<MemorySource> {
  return {
    key,
    files,
    workingSet: await placeOf(workingSet, files.sizeBytes),
    spareBytes: hostState().spareBytes,
    sizeBytes: files.sizeBytes,
    dataBytes: files.dataBytes,
    mapped: files.layers,
    identity: { kind: "files", files: files.identities },
    assertUnchanged: () => files.assertUnchanged(),
    keep: () => {
      const identities: FileIdentity[] = files.identities;
      const memfd = keepFiles({ workingSet, key, files: identities });
      return { fds: [memfd.fd, ...files.layers.fds], memfd };
    },
    close: async () => {
      await files.settle();
      files.close();
    },
  };
}

function keyOf(stats: readonly BigIntStats[], workingSet: string): string {
  const files = stats.map(({ dev, ino, size, mtimeNs }) => [dev, ino, size, mtimeNs].join(":"));
  return JSON.stringify(["files", ...files, workingSet]);
}

async function placeOf(workingSet: string, sizeBytes: number): Promise<WorkingSetPlace | null> {
  if (workingSet === OFF) return null;
  assertFolder(workingSet);
  const { fileWorkingSet } = await import("../source/working-set-place.ts");
  return fileWorkingSet(workingSet, sizeBytes);
}
