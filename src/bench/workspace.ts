/** What a run has in the file system: a folder, the built programs, memory files. */
import { randomFillSync } from "node:crypto";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Child } from "../kit/child.ts";
import { HandlerCommand, shellWord } from "../kit/handler-command.ts";
import { availableMib } from "./machine.ts";
import { buildProgram, type ProgramName } from "./programs.ts";

export const MIB = 2 ** 20;
/** Random bytes at the start of every MiB of a sparse file. */
const SPARSE_DATA_BYTES = 64 * 1024;

export class Workspace {
  readonly #folder = mkdtempSync(join(tmpdir(), "faultline-bench-"));
  readonly #programs = new Map<ProgramName, string>();
  readonly #remove = (): void => rmSync(this.#folder, { recursive: true, force: true });
  #nextName = 1;

  constructor() {
    // However we end: by an error, or by Ctrl-C.
    process.on("exit", this.#remove);
  }

  /** The path of a C program, built at the first call. */
  program(name: ProgramName): string {
    const path = this.#programs.get(name) ?? buildProgram(name, this.#folder);
    this.#programs.set(name, path);
    return path;
  }

  /** The C handler that everything is compared with. */
  referenceCommand(): HandlerCommand {
    return new HandlerCommand(`${shellWord(this.program("handler"))} {socket} {memory}`);
  }

  /** A path that nothing has yet. Short: socket paths end at 107 bytes. */
  newPath(extension: string): string {
    return join(this.#folder, `${this.#nextName++}.${extension}`);
  }

  /** Where a handler is to listen, in a folder of its own: some listen on a second socket there. */
  newSocketPath(): string {
    const folder = this.newPath("handler");
    mkdirSync(folder);
    return join(folder, "vm.sock");
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

  /** Gives the memory of a file back before the run is over. */
  remove(path: string): void {
    rmSync(path);
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

  [Symbol.dispose](): void {
    process.off("exit", this.#remove);
    this.#remove();
  }
}

/**
 * Has the host back memory that the guests will use: in a virtual machine the first touch since
 * boot costs several microseconds a page, which is nobody's fault latency.
 */
export async function warmMemory(wantedMib: number): Promise<void> {
  const sizeMib = Math.min(wantedMib, Math.floor(availableMib() / 2));
  await using node = new Child([process.execPath, "-e", `Buffer.alloc(${sizeMib} * 2 ** 20, 1)`]);
  await node.finish();
}
