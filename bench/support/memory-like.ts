/**
 * A file like a guest's memory, without a guest: pages of this machine's programs in runs, as a
 * page cache holds them, between zeroes and holes. The same on every run on the same machine.
 */
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";

const PAGE_BYTES = 4096;
const LONGEST_RUN_PAGES = 128;
/** As measured in a Linux guest of 512 MiB with a warm Node service: some 60 % is not zero. */
const DATA_SHARE = 0.6;
/** Of the rest, so much was written once and is zero now; the others are holes. */
const WRITTEN_ZERO_SHARE = 0.5;
/** Of the pages of data, so many stand alone; the others are in the order of their file. */
const STRAY_SHARE = 0.1;

export function writeMemoryLike(path: string, sizeBytes: number): void {
  const pages = programPages(sizeBytes);
  const pageCount = pages.length / PAGE_BYTES;
  const random = xorshift(1);
  const fd = openSync(path, "wx");
  ftruncateSync(fd, sizeBytes);
  let nextPage = 0;
  for (let at = 0; at < sizeBytes; ) {
    const wanted = (1 + Math.floor(random() * LONGEST_RUN_PAGES)) * PAGE_BYTES;
    const run = Buffer.alloc(Math.min(wanted, sizeBytes - at));
    const isData = random() < DATA_SHARE;
    for (let offset = 0; isData && offset < run.length; offset += PAGE_BYTES) {
      const isStray = random() < STRAY_SHARE;
      const page = isStray ? Math.floor(random() * pageCount) : nextPage++ % pageCount;
      pages.copy(run, offset, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    }
    if (isData || random() < WRITTEN_ZERO_SHARE) writeSync(fd, run, 0, run.length, at);
    at += run.length;
  }
  closeSync(fd);
}

/** Node's own binary and the system's libraries, largest first, up to so many bytes. */
function programPages(sizeBytes: number): Buffer {
  const folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/bin"];
  const files = folders.flatMap((folder) => filesOf(folder));
  files.sort((a, b) => b.sizeBytes - a.sizeBytes);
  const parts: Buffer[] = [];
  let total = 0;
  for (const path of [process.execPath, ...files.map((file) => file.path)]) {
    if (total >= sizeBytes) break;
    const bytes = readFileSync(path);
    parts.push(bytes.subarray(0, bytes.length - (bytes.length % PAGE_BYTES)));
    total += parts.at(-1)!.length;
  }
  return Buffer.concat(parts);
}

function filesOf(folder: string): { readonly path: string; readonly sizeBytes: number }[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => join(folder, name))
      .map((path) => ({ path, sizeBytes: statSync(path).size }));
  } catch {
    return []; // Another architecture's.
  }
}

/** From 0 to 1, exclusive. */
function xorshift(seed: number): () => number {
  let state = seed * 0x9e37_79b1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
