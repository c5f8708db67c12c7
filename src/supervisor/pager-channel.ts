/**
 * The pager's end of its channel to the supervisor: what it keeps there survives it. All calls are
 * synchronous, and done when they return: the packet is in the kernel then, in a socket whose other
 * end is the supervisor's, and is read also if this process is dead by then.
 */
import { writeSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { FaultlineError, SysError } from "../base/errors.ts";
import { EAGAIN, ECONNRESET, EPIPE, ETOOMANYREFS } from "../linux/abi-posix.ts";
import { OwnedFd, setCloseOnExec } from "../linux/fd.ts";
import { dieWithParent } from "../linux/process.ts";
import { watchReadable } from "../linux/sys.ts";
import { EntryBudget } from "./entry-budget.ts";
import {
  CHANNEL_VARIABLE,
  type PagerMessage,
  parseSupervisorMessage,
  type SupervisorMessage,
  TRIAL_VARIABLE,
} from "./messages.ts";
import { receivePacket, sendPacket } from "./packets.ts";

/** The supervisor does nothing that takes longer than some milliseconds. */
const SEND_TIMEOUT_MS = 5000;
const SEND_RETRY_MS = 1;
/** A standby that hangs must be replaced before it is needed. */
const STANDBY_ALIVE_MS = 2000;
/** Packets handled before the event loop turns. */
const PACKETS_PER_TURN = 64;
const STDERR = 2;

/** Descriptors under a name, as the supervisor keeps them. */
export interface KeptEntry {
  readonly name: string;
  readonly fds: readonly OwnedFd[];
}

export interface StopRequest {
  /** The descriptors survive the daemon, in the store of the service manager: no VM need end. */
  readonly isStored: boolean;
  readonly deadlineMs: number;
}

export class PagerChannel {
  /** The connection is kept already. */
  onAccepted: (connection: string, fd: OwnedFd) => void = (_connection, fd) => fd.close();
  /** The daemon is to end: answer with `finished()`. */
  onStop: (stop: StopRequest) => void = () => this.finished();
  /**
   * The supervisor is gone. This process must end at once, without touching the VMs: another may
   * take them over. SIGKILL, as exit hooks could wait for threads that are in the kernel.
   */
  onOrphaned: () => void = () => process.kill(process.pid, "SIGKILL");

  /**
   * Whether all is as well if this pager does not come up: it is the first, or a reload's. So what
   * it finds wrong it refuses; any other has to serve as well as it can.
   */
  readonly isOnTrial: boolean;
  readonly #socket: OwnedFd;
  /** Connections that were asked for, and their listeners. */
  readonly #asked = new Map<string, string>();
  readonly #handedOver: KeptEntry[] = [];
  #budget = new EntryBudget(0);
  #isInCharge = false;
  #standbyTimer: NodeJS.Timeout | undefined;
  #onEntries: ((entries: readonly KeptEntry[]) => void) | null = null;
  #onReloadFailed: ((reason: Error) => void)[] = [];

  private constructor(socket: OwnedFd, isOnTrial: boolean) {
    this.isOnTrial = isOnTrial;
    this.#socket = socket;
    const watch = watchReadable(socket.fd, () => {
      if (this.#receive() === "open") watch.arm();
    });
    watch.arm();
  }

  /** The channel this process was started with; null: it was not started by a supervisor. */
  static open(): PagerChannel | null {
    const fd = process.env[CHANNEL_VARIABLE];
    if (fd === undefined) return null;
    const isOnTrial = process.env[TRIAL_VARIABLE] !== undefined;
    for (const name of [CHANNEL_VARIABLE, TRIAL_VARIABLE]) delete process.env[name];
    const socket = new OwnedFd(Number(fd));
    setCloseOnExec(socket.fd);
    // If this thread hangs, nobody reads the end of the channel. If the supervisor has died
    // before this line, the channel tells.
    dieWithParent();
    return new PagerChannel(socket, isOnTrial);
  }

  /** Ready to take over; resolves when it has to, with all entries. Nothing else before that. */
  standBy(): Promise<readonly KeptEntry[]> {
    return new Promise((resolve) => {
      this.#onEntries = resolve;
      this.#send({ type: "standingBy" });
      this.#standbyTimer = setInterval(() => this.alive(), STANDBY_ALIVE_MS);
    });
  }

  /** Everything is served (again). */
  serving(): void {
    this.#order({ type: "serving" });
  }

  /**
   * Keeps duplicates of `fds` under a name, instead of what was there.
   * @throws FaultlineError `limit`; nothing has changed then
   */
  keep(name: string, fds: readonly number[]): void {
    this.#budget.take(name, fds.length);
    this.#order({ type: "keep", name }, fds);
  }

  drop(name: string): void {
    this.#order({ type: "drop", name });
    this.#budget.release(name);
    for (const [connection, listener] of this.#asked) {
      if (listener !== name) continue;
      this.#asked.delete(connection);
      this.#budget.release(connection);
    }
  }

  /**
   * Takes the next connection of a listener that is kept, and keeps it. One, until asked again.
   * @throws FaultlineError `limit`; nothing was asked for then
   */
  accept(listener: string, connection: string): void {
    this.#budget.take(connection, 1);
    this.#asked.set(connection, listener);
    this.#order({ type: "accept", listener, connection });
  }

  /**
   * To be called every few seconds while all is well, from the moment all entries are there: who is
   * silent is taken for hung.
   */
  alive(): void {
    this.#send({ type: "alive" });
  }

  /**
   * Starts a new pager, which takes over when it stands by: this process is killed then.
   * @throws FaultlineError `conflict` why the new one did not come up
   */
  reload(): Promise<never> {
    return new Promise((_resolve, reject) => {
      this.#onReloadFailed.push(reject);
      this.#order({ type: "reload" });
    });
  }

  finished(): void {
    this.#order({ type: "finished" });
  }

  #order(message: PagerMessage, fds: readonly number[] = []): void {
    assert(this.#isInCharge, `${message.type} before the entries were handed over`);
    this.#send(message, fds);
  }

  #send(message: PagerMessage, fds: readonly number[] = []): void {
    const deadlineMs = performance.now() + SEND_TIMEOUT_MS;
    for (;;) {
      try {
        sendPacket(this.#socket.fd, message, fds);
        return;
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
        const isFull = error.errno === EAGAIN || error.errno === ETOOMANYREFS;
        if (!isFull || performance.now() > deadlineMs) this.#end(message.type, error);
        // Until the supervisor has read some of what was sent.
        Atomics.wait(pause, 0, 0, SEND_RETRY_MS);
      }
    }
  }

  /** A pager that cannot keep what it has is better replaced than used. */
  #end(what: string, error: SysError): never {
    if (error.errno !== EPIPE && error.errno !== ECONNRESET) {
      const msg = "The supervisor does not take what it is told";
      const line = {
        level: "error",
        time: new Date().toISOString(),
        what,
        err: error.message,
        msg,
      };
      try {
        writeSync(STDERR, `${JSON.stringify(line)}\n`);
      } catch {
        // Nobody reads the log.
      }
    }
    this.onOrphaned();
    throw error;
  }

  #receive(): "open" | "closed" {
    for (let count = 0; count < PACKETS_PER_TURN; count++) {
      const packet = receivePacket(this.#socket.fd);
      if (packet === "empty") break;
      if (packet === "closed") {
        this.onOrphaned();
        return "closed";
      }
      assert(packet !== "cut", "no room for descriptors of the supervisor: raise RLIMIT_NOFILE");
      const message = parseSupervisorMessage(packet.text, packet.fds.length);
      assert(message.type !== "malformed", `packet of the supervisor: ${describe(message)}`);
      const wasInCharge = this.#isInCharge;
      this.#take(message, packet.fds);
      // Who has just got all entries must look at them before anything else happens.
      if (this.#isInCharge !== wasInCharge) break;
    }
    return "open";
  }

  #take(message: SupervisorMessage, fds: OwnedFd[]): void {
    switch (message.type) {
      case "takeOver":
        this.#budget = new EntryBudget(message.maxFds);
        this.#send({ type: "next" });
        return;
      case "entries":
        for (const { name, fdCount } of message.entries) {
          this.#budget.take(name, fdCount);
          this.#handedOver.push({ name, fds: fds.splice(0, fdCount) });
        }
        if (!message.isLast) {
          this.#send({ type: "next" });
          return;
        }
        this.#isInCharge = true;
        clearInterval(this.#standbyTimer);
        this.#onEntries?.(this.#handedOver.splice(0));
        return;
      case "accepted":
        this.#takeConnection(message.connection, fds[0]!);
        return;
      case "reloadFailed":
        for (const reject of this.#onReloadFailed.splice(0)) {
          reject(new FaultlineError("conflict", message.reason));
        }
        return;
      case "stop":
        this.onStop({ isStored: message.isStored, deadlineMs: message.deadlineMs });
        return;
    }
  }

  #takeConnection(connection: string, fd: OwnedFd): void {
    if (this.#asked.delete(connection)) {
      this.onAccepted(connection, fd);
      return;
    }
    // Its listener was dropped while it was on its way.
    fd.close();
    this.#send({ type: "drop", name: connection });
  }
}

const pause = new Int32Array(new SharedArrayBuffer(4));

function describe(message: { readonly type: string; readonly problem?: string }): string {
  return message.problem ?? message.type;
}
