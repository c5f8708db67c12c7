/** What all benchmarks of a run share: a folder, the built programs, memory files, warm memory. */
import { execFileSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";

export const MIB = 2 ** 20;
/** Random bytes at the start of every MiB of a sparse file. */
const SPARSE_DATA_BYTES = 64 * 1024;

export interface Programs {
  readonly handler: string;
  readonly faulter: string;
  readonly vms: string;
  readonly storm: string;
  readonly flood: string;
}

export class Workspace {
  readonly isSmoke: boolean;
  readonly programs: Programs;
  readonly #folder = mkdtempSync(join(tmpdir(), "faultline-bench-"));
  #nextName = 1;

  constructor(isSmoke: boolean) {
    process.on("exit", () => this[Symbol.dispose]());
    this.isSmoke = isSmoke;
    this.programs = {
      handler: compileReference("handler"),
      faulter: compileReference("faulter"),
      vms: compileReference("vms"),
      storm: compileProgram("test/peer/storm.c"),
      flood: compileProgram("test/peer/flood.c"),
    };
  }

  /** A number for the real run, and one that is just enough to see that the benchmark works. */
  scaled(full: number, smoke: number): number {
    return this.isSmoke ? smoke : full;
  }

  /** A path that nothing has yet. Short: socket paths end at 107 bytes. */
  newPath(extension: string): string {
    return join(this.#folder, `${this.#nextName++}.${extension}`);
  }

  /** A memory file without a hole; writing it leaves it in the page cache. */
  randomFile(sizeBytes: number): string {
    const path = this.newPath("mem");
    const fd = openSync(path, "wx");
    const bytes = new Uint8Array(MIB);
    for (let at = 0; at < sizeBytes; at += MIB) writeSync(fd, randomFillSync(bytes), 0, MIB, at);
    closeSync(fd);
    return path;
  }

  /** A memory file that is mostly holes. */
  sparseFile(sizeBytes: number): string {
    const path = this.newPath("mem");
    const fd = openSync(path, "wx");
    const bytes = new Uint8Array(SPARSE_DATA_BYTES);
    ftruncateSync(fd, sizeBytes);
    for (let at = 0; at < sizeBytes; at += MIB) {
      writeSync(fd, randomFillSync(bytes), 0, SPARSE_DATA_BYTES, at);
    }
    closeSync(fd);
    return path;
  }

  /**
   * Has the host back memory that the guests will use: in a virtual machine the first touch since
   * boot costs several microseconds a page, which is nobody's fault latency.
   */
  warmMemory(): void {
    const sizeMib = Math.min(this.scaled(2048, 128), Math.floor(availableMib() / 2));
    execFileSync(process.execPath, ["-e", `Buffer.alloc(${sizeMib} * 2 ** 20, 1)`]);
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function compileReference(name: string): string {
  return compileProgram(join("bench", "reference", `${name}.c`));
}

function compileProgram(path: string): string {
  return compile(join(repositoryRoot, path), ["-Wextra", "-pthread"]);
}

function availableMib(): number {
  const kib = /^MemAvailable:\s*(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
  return Number(kib ?? 0) / 1024;
}
