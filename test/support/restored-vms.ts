/**
 * Kinds of VMs that a daemon's pagers die under. Each checks its own memory, and is restored again
 * and again: it lives for a while, looks at every page, and ends.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SessionSpec } from "../../src/daemon/host-service.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { within } from "../../src/kit/wait.ts";
import { CPeer } from "./c-peer.ts";
import { overlay, type Random, randomRuns, type TestFolder, writeSparse } from "./fixtures.ts";
import { waitingThreads } from "./orphans.ts";
import type { Stall } from "./stalls.ts";
import { startTinyvm, type TinyvmEvent } from "./tinyvm.ts";
import { Vmm } from "./vmm-process.ts";

const PAGES = 8192;
/** Of 2 MiB each; the pool of a test machine is small. */
const HUGE_VM_PAGES = 8 * 512;
/** From the last kill on. A VM stands still while pagers die, so nothing shorter is certain. */
const FINISH_BUDGET_MS = 60_000;
const READERS = 2;
const REST_US = 1000;

/** A VM under way. */
export interface VmLife {
  readonly pid: number;
  /** Resolves when it ends, by itself or not. */
  readonly over: Promise<unknown>;
  /** Lets it look at all of its memory; rejects if a byte is wrong. Its stalls, if noted. */
  finish(): Promise<readonly Stall[] | null>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface VmKind {
  readonly name: string;
  readonly spec: SessionSpec;
  /** It works until it is told to finish. Others may be over before anybody looks. */
  readonly isLasting: boolean;
  start(socketPath: string, random: Random): VmLife;
}

/** What test/peer/churn.c prints. */
interface ChurnResult {
  readonly reads: number;
  readonly removes: number;
  readonly wrong: number;
  readonly stalls: readonly (readonly [number, number])[];
}

/** Reads, writes and gives back at random, all the time. */
class ChurningVm implements VmLife {
  readonly over: Promise<unknown>;
  readonly #peer: CPeer;

  constructor(socketPath: string, expected: string, random: Random, flags: readonly string[]) {
    const args = [socketPath, expected, 3_600_000, READERS, random.below(2 ** 20)];
    this.#peer = new CPeer("churn", [...args, "--rest", REST_US, "--pulse", ...flags]);
    this.over = this.#peer.exited;
  }

  get pid(): number {
    return this.#peer.pid;
  }

  async finish(): Promise<readonly Stall[]> {
    this.#peer.kill("SIGTERM");
    const line = await this.#peer.line(FINISH_BUDGET_MS).catch((cause: unknown) => {
      throw new Error(`${waitingThreads(this.pid)} threads of the VM wait for pages`, { cause });
    });
    const { wrong, reads, removes, stalls } = JSON.parse(line) as ChurnResult;
    assert.equal(wrong, 0, `wrong bytes: ${this.#peer.errors}`);
    assert.ok(reads > 0 && removes > 0, "the VM was at work");
    return stalls.map(([endMs, lengthMs]) => ({ endMs, lengthMs }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#peer[Symbol.asyncDispose]();
  }
}

/** What a Firecracker of some version does, once, with all of its memory. */
class PassingVm implements VmLife {
  readonly over: Promise<unknown>;
  readonly #vmm: Vmm;

  constructor(socketPath: string, expected: string, options: readonly (string | number)[]) {
    this.#vmm = new Vmm(socketPath, expected, options);
    this.over = this.#vmm.exited;
  }

  get pid(): number {
    return this.#vmm.pid;
  }

  async finish(): Promise<null> {
    const exit = await this.#vmm.ended(FINISH_BUDGET_MS);
    assert.deepEqual(exit, { code: 0, signal: null }, `the VM was lost: ${this.#vmm.errors}`);
    const { mismatches, nonzero_after_remove: nonzero } = await this.#vmm.result();
    assert.deepEqual({ mismatches, nonzero }, { mismatches: 0, nonzero: 0 });
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vmm[Symbol.asyncDispose]();
  }
}

/** A guest that sums up its memory, writes, and sums up again. */
class TinyVm implements VmLife {
  readonly over: Promise<unknown>;
  readonly #run;
  readonly #snapshot: TinyvmEvent;

  constructor(args: readonly string[], snapshot: TinyvmEvent) {
    this.#run = startTinyvm(args);
    this.#snapshot = snapshot;
    this.over = this.#run.result;
  }

  get pid(): number {
    return this.#run.child.pid!;
  }

  async finish(): Promise<null> {
    const { code, signal, events, errors } = await within(
      "tinyvm ended",
      this.#run.result,
      FINISH_BUDGET_MS,
    );
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, `tinyvm was lost: ${errors}`);
    const value = (name: string) => events.find(({ event }) => event === name)?.value;
    assert.equal(value("checksum"), this.#snapshot.checksum);
    assert.equal(value("after-write"), this.#snapshot.afterWrite);
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#run.child.kill("SIGKILL");
    await this.#run.result;
  }
}

/** What VMs are restored from, in every form, and with every form a kind of VM. */
export class VmKinds {
  readonly #folder: TestFolder;
  readonly #random: Random;
  /** What is there already. */
  readonly #written = new Set<string>();
  readonly store: string;

  constructor(folder: TestFolder, random: Random) {
    this.#folder = folder;
    this.#random = random;
    this.store = folder.at("store");
  }

  /** A memory file. */
  file(spec: Partial<SessionSpec> = {}): VmKind {
    const memory = this.#memoryFile("memory", PAGES);
    return churning("a memory file", { memory, ...spec }, memory);
  }

  /** A guest that gives memory back ten times as fast, and so is through with it sooner. */
  hasty(): VmKind {
    const memory = this.#memoryFile("memory", PAGES);
    return churning("a hasty guest", { memory }, memory, ["--rest", "100"]);
  }

  /** A memory file with two diffs above it. */
  layers(): VmKind {
    const [base, expected] = [this.#folder.at("base"), this.#folder.at("flattened")];
    const [below, above] = [this.#folder.at("below"), this.#folder.at("above")];
    const content = this.#writeSparse(base);
    for (const layer of [below, above]) {
      const runs = randomRuns(this.#random, PAGES, 40);
      overlay(content, writeSparse(layer, PAGES, runs, this.#random.next()), runs);
    }
    writeFileSync(expected, content);
    return churning("diff files", { memory: base, layers: [below, above] }, expected);
  }

  /** An image in a folder: chunks that are fetched, decoded, and shared in the arena. */
  image(): VmKind {
    const expected = this.#memoryFile("packed", PAGES);
    const main = join(builtRoot, "src/cli/main.js");
    mkdirSync(this.store, { recursive: true });
    const args = [main, "image", "pack", expected, "--store", this.store, "--name", "vm"];
    execFileSync(process.execPath, args, { stdio: "pipe" });
    return churning("an image", { memory: "vm" }, expected);
  }

  huge(): VmKind {
    const memory = this.#memoryFile("huge", HUGE_VM_PAGES);
    return churning("2 MiB pages", { memory }, memory, ["--huge"]);
  }

  /** Comes, reads all, gives back, and goes: handshakes at all times. */
  passing(version: string, regions: number, ...flags: readonly (string | number)[]): VmKind {
    const memory = this.#memoryFile("passing", PAGES / 4);
    const options = ["--version", version, "--regions", regions, "--threads", 2, "--balloon"];
    const touched = ["--touch", `random:${PAGES / 8}`, ...flags];
    return {
      name: `Firecracker ${version}`,
      spec: { memory },
      isLasting: false,
      start: (socketPath) => new PassingVm(socketPath, memory, [...options, ...touched]),
    };
  }

  /** A guest, on /dev/kvm or as a process. `snapshot`: of bootTinyvm in `tinyvmFolder`. */
  tinyvm(snapshot: TinyvmEvent, guest: "kvm" | "process"): VmKind {
    const memory = String(snapshot.memoryFile);
    const args = ["restore", "--dir", this.tinyvmFolder, "--guest", guest, "--socket"];
    return {
      name: `tinyvm (${guest})`,
      spec: { memory },
      isLasting: false,
      start: (socketPath) => new TinyVm([...args, socketPath], snapshot),
    };
  }

  get tinyvmFolder(): string {
    const path = this.#folder.at("tinyvm");
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** The same for all who ask for it. */
  #memoryFile(name: string, pageCount: number): string {
    const path = this.#folder.at(name);
    if (!this.#written.has(path)) this.#writeSparse(path, pageCount);
    this.#written.add(path);
    return path;
  }

  #writeSparse(path: string, pageCount = PAGES): Buffer {
    const runs = randomRuns(this.#random, pageCount, 40);
    return writeSparse(path, pageCount, runs, this.#random.next());
  }
}

function churning(
  name: string,
  spec: SessionSpec,
  expected: string,
  flags: readonly string[] = [],
): VmKind {
  return {
    name,
    spec,
    isLasting: true,
    start: (socketPath, random) => new ChurningVm(socketPath, expected, random, flags),
  };
}
