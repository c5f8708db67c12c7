/** Takes files out of the page cache, for tests of what a cold disk does. */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, statSync } from "node:fs";
import { cachedBytes } from "../../src/linux/file.ts";

/** False if it stays there: tmpfs, or an old kernel. */
export function coolFile(path: string): boolean {
  const options = ["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
  execFileSync("dd", [`of=${path}`, ...options]);
  return cachedBytesOf(path) === 0;
}

export function cachedBytesOf(path: string): number {
  const fd = openSync(path, "r");
  try {
    return cachedBytes(fd, 0, statSync(path).size);
  } finally {
    closeSync(fd);
  }
}
