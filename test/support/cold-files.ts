/** Files that are not in the page cache. */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, statSync } from "node:fs";
import { cachedBytes } from "../../src/linux/file.ts";

/** Takes a file out of the page cache. False if it stays there: tmpfs, or an old kernel. */
export function cool(path: string): boolean {
  const options = ["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
  execFileSync("dd", [`of=${path}`, ...options]);
  return cachedOf(path) === 0;
}

export function cachedOf(path: string): number {
  const fd = openSync(path, "r");
  try {
    return cachedBytes(fd, 0, statSync(path).size);
  } finally {
    closeSync(fd);
  }
}
