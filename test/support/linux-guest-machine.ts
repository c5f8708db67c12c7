/**
 * A QEMU process with the Linux guest in it: booted, or restored from a snapshot with its memory
 * served by a page-fault handler. QEMU emulates the CPUs, so no /dev/kvm is needed.
 *
 * A snapshot is what QEMU's migration with `x-ignore-shared` leaves: the state of CPUs and devices
 * in one file, and the guest's memory where it always was, in another that QEMU had mapped.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { dataExtents } from "../../src/linux/file.ts";
import { buildInitramfs } from "./linux-guest-initramfs.ts";
import { guestParts } from "./linux-guest-parts.ts";
import { GuestWires } from "./linux-guest-wires.ts";
import { QmpClient } from "./qmp-client.ts";

export const GUEST_MEMORY_BYTES = 256 * 2 ** 20;

/** Some 6 s on an idle machine. */
const BOOT_BUDGET_MS = 60_000;
const ANSWER_BUDGET_MS = 20_000;
const STATE_BUDGET_MS = 10_000;
const EXIT_BUDGET_MS = 10_000;

/** What a guest is restored from. */
export interface GuestSnapshot {
  readonly folder: string;
  readonly memoryFile: string;
  readonly seed: number;
  /** Questions answered before. */
  readonly answeredCount: number;
}

export class LinuxGuest {
  readonly qmp: QmpClient;
  readonly #qemu: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #wires: GuestWires;
  #answeredCount: number;

  private constructor(wires: GuestWires, qemu: ChildProcess, answeredCount: number) {
    this.#wires = wires;
    this.#qemu = qemu;
    this.#answeredCount = answeredCount;
    this.qmp = new QmpClient(wires.qmp);
    this.#exited = once(qemu, "close").then(([code, signal]) => {
      wires.fail(`QEMU ended (code ${code}, signal ${signal})`);
    });
    createInterface(qemu.stderr!).on("line", (line) => wires.take(line));
  }

  /** Boots it in `folder`, which gets its files; returns when the service is warm. */
  static async boot(folder: string, seed: number): Promise<LinuxGuest> {
    writeFileSync(join(folder, INITRAMFS), buildInitramfs());
    const memory = `size=${GUEST_MEMORY_BYTES},mem-path=${join(folder, MEMORY)},share=on`;
    const options = ["-object", `memory-backend-file,id=ram,${memory}`];
    const guest = await LinuxGuest.#start(folder, seed, 0, options, {});
    return await guest.#orGone(async () => {
      const line = await guest.#wires.service.next("the service was warm", BOOT_BUDGET_MS);
      assert.equal(line, "warm");
    });
  }

  /**
   * Returns when it runs; the memory is all missing then, but for what QEMU itself has touched, and
   * what was installed until `beforeResume` was done.
   */
  static async restore(
    snapshot: GuestSnapshot,
    handlerSocket: string,
    beforeResume: () => Promise<void> = async () => {},
  ): Promise<LinuxGuest> {
    const backend = `memory-backend-memfd,id=ram,size=${GUEST_MEMORY_BYTES},share=on`;
    const shim = compile(join(repositoryRoot, "test/peer/qemu-shim.c"), ["-shared", "-fPIC"]);
    const environment = { LD_PRELOAD: shim, FAULTLINE_SHIM_SOCKET: handlerSocket };
    return await LinuxGuest.#resume(snapshot, backend, environment, beforeResume);
  }

  /** Without a handler: `memoryFile` is a copy of the snapshot's, which the guest writes to. */
  static async restoreCopied(snapshot: GuestSnapshot, memoryFile: string): Promise<LinuxGuest> {
    const memory = `size=${GUEST_MEMORY_BYTES},mem-path=${memoryFile},share=on`;
    const backend = `memory-backend-file,id=ram,${memory}`;
    return await LinuxGuest.#resume(snapshot, backend, {}, async () => {});
  }

  static async #resume(
    { folder, seed, answeredCount }: GuestSnapshot,
    backend: string,
    environment: NodeJS.ProcessEnv,
    beforeResume: () => Promise<void>,
  ): Promise<LinuxGuest> {
    const options = ["-object", backend, "-incoming", "defer"];
    const guest = await LinuxGuest.#start(folder, seed, answeredCount, options, environment);
    return await guest.#orGone(async () => {
      await guest.qmp.ignoreSharedMemory();
      await guest.qmp.execute("migrate-incoming", { uri: `exec:cat '${join(folder, STATE)}'` });
      await guest.qmp.untilMigrated();
      await beforeResume();
      await guest.qmp.execute("cont");
    });
  }

  /** The file behind the memory of a guest that was booted in this folder; while it runs, live. */
  static memoryFile(folder: string): string {
    return join(folder, MEMORY);
  }

  static async #start(
    folder: string,
    seed: number,
    answeredCount: number,
    options: readonly string[],
    environment: NodeJS.ProcessEnv,
  ): Promise<LinuxGuest> {
    const wires = await GuestWires.listen();
    const args = [...machineOptions(folder, seed), ...wires.options(), ...options];
    // It dies with us, however we end.
    const qemu = spawn("setpriv", ["--pdeathsig", "KILL", "--", guestParts.qemu, ...args], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...environment },
    });
    const guest = new LinuxGuest(wires, qemu, answeredCount);
    return await guest.#orGone(() => guest.qmp.negotiate());
  }

  get pid(): number {
    return this.#qemu.pid!;
  }

  /** Asks the warm service, which must count this question as its next. */
  async ask(question: string): Promise<string> {
    await this.#wires.service.send(question);
    const line = await this.#wires.service.next(`“${question}” was answered`, ANSWER_BUDGET_MS);
    this.#answeredCount++;
    const count = `${this.#answeredCount} `;
    assert.ok(line.startsWith(count), `answer ${count}to “${question}” came as “${line}”`);
    return line.slice(count.length);
  }

  /**
   * Copies what is in the memory of a restored guest over `memory`, and returns how much that was:
   * what was never loaded are holes of QEMU's memfd.
   */
  copyLoadedMemory(memory: Buffer): number {
    const folder = `/proc/${this.pid}/fd`;
    const isMemory = (fd: string) => readlinkSync(join(folder, fd)).startsWith("/memfd:");
    const fd = openSync(join(folder, readdirSync(folder).find(isMemory)!), "r");
    try {
      let loadedBytes = 0;
      for (const { start, end } of dataExtents(fd, memory.length)) {
        readSync(fd, memory, start, end - start, start);
        loadedBytes += end - start;
      }
      return loadedBytes;
    } finally {
      closeSync(fd);
    }
  }

  /** Writes its state down beside its memory, and ends it. */
  async snapshot(folder: string, seed: number): Promise<GuestSnapshot> {
    await this.qmp.execute("stop");
    await this.qmp.ignoreSharedMemory();
    // QEMU is done before `cat` is: the file gets its name when it is whole.
    const [state, draft] = [join(folder, STATE), join(folder, `${STATE}.draft`)];
    await this.qmp.execute("migrate", { uri: `exec:cat > '${draft}' && mv '${draft}' '${state}'` });
    await this.qmp.untilMigrated();
    await waitFor("the state was written", () => existsSync(state), STATE_BUDGET_MS);
    await this.quit();
    const memoryFile = LinuxGuest.memoryFile(folder);
    return { folder, memoryFile, seed, answeredCount: this.#answeredCount };
  }

  async quit(): Promise<void> {
    await this.qmp.execute("quit");
    await within("QEMU ended", this.#exited, EXIT_BUDGET_MS);
  }

  async #orGone(step: () => Promise<void>): Promise<this> {
    try {
      await step();
      return this;
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#qemu.kill("SIGKILL");
    await this.#exited;
    this.#wires[Symbol.dispose]();
  }
}

// Files of a snapshot's folder.
const INITRAMFS = "initramfs";
const MEMORY = "memory";
const STATE = "state";

/** The same for a boot and a restore, or the restore would find another machine than was saved. */
function machineOptions(folder: string, seed: number): string[] {
  const kernelOptions = [
    "console=ttyS0",
    // Nothing may depend on how fast this machine is, nor on how long the guest was not running.
    "nowatchdog",
    "rcupdate.rcu_cpu_stall_suppress=1",
    "clocksource=tsc",
    "tsc=reliable",
    "mitigations=off",
    // Else the kernel writes zeroes into each page before it gives it to the balloon, which loads
    // it, and no page would be given back that was never loaded.
    "init_on_alloc=0",
    `warm_seed=${seed}`,
  ];
  return [
    ...["-machine", "pc,accel=tcg,memory-backend=ram", "-m", `${GUEST_MEMORY_BYTES / 2 ** 20}M`],
    ...["-smp", "2", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
    ...["-device", "virtio-balloon-pci"],
    ...["-kernel", guestParts.kernel, "-initrd", join(folder, INITRAMFS)],
    ...["-append", kernelOptions.join(" ")],
  ];
}
