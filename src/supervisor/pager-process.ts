/** A pager as its supervisor sees it: a child, its channel, and what became of both. */
import { type ChildProcess, spawn } from "node:child_process";
import { describeError, SysError } from "../base/errors.ts";
import { EPIPE } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { packetPair } from "../linux/socket.ts";
import { type ReadWatch, watchReadable } from "../linux/sys.ts";
import {
  CHANNEL_VARIABLE,
  type PagerMessage,
  parsePagerMessage,
  type SupervisorMessage,
  TRIAL_VARIABLE,
} from "./messages.ts";
import { receivePacket, sendPacket } from "./packets.ts";

/** Where the child finds its end of the channel, and the daemon's lock, which it only holds. */
const CHANNEL_FD = 3;
/** Packets handled before the event loop turns. */
const PACKETS_PER_TURN = 64;
/** Until a pager with a full socket is tried again. */
const SEND_RETRY_MS = 5;

export interface PagerCommand {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Nobody is the worse off if it does not come up. */
  readonly isOnTrial?: boolean;
}

export interface PagerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Why there was not even a process. */
  readonly error?: string;
}

/**
 * `starting`, `ready` to take over, `receiving` the entries, `restoring` what they stand for,
 * `serving`.
 */
export type PagerState = "starting" | "ready" | "receiving" | "restoring" | "serving";

/** A packet that is made when there is room for it; null: it is not needed any more. */
type Draft = () => { readonly message: SupervisorMessage; readonly fds: readonly number[] } | null;

export interface PagerEvents {
  /** The descriptors are the receiver's. What it throws is a wrong of this pager. */
  onMessage(pager: PagerProcess, message: PagerMessage, fds: readonly OwnedFd[]): void;
  /** It said something that it must not say, and was killed. */
  onWrong(pager: PagerProcess, problem: string): void;
  /** It is dead, and everything that it had said was handled. */
  onGone(pager: PagerProcess, exit: PagerExit): void;
}

export class PagerProcess {
  state: PagerState = "starting";
  /** Why we kill it, if we do. */
  killedFor: string | null = null;
  /** When it last said anything. */
  heardAtMs = performance.now();
  readonly #child: ChildProcess;
  readonly #socket: OwnedFd;
  readonly #watch: ReadWatch;
  readonly #events: PagerEvents;
  readonly #drafts: Draft[] = [];
  #retry: NodeJS.Timeout | undefined;
  #exit: PagerExit | null = null;
  #isClosed = false;

  constructor(pager: PagerCommand, lock: OwnedFd, events: PagerEvents) {
    const { command, args, env, isOnTrial = false } = pager;
    this.#events = events;
    const [ours, theirs] = packetPair();
    using childEnd = theirs;
    this.#socket = ours;
    this.#child = spawn(command, args, {
      stdio: ["ignore", "inherit", "inherit", childEnd.fd, lock.fd],
      env: {
        ...process.env,
        ...env,
        [CHANNEL_VARIABLE]: String(CHANNEL_FD),
        [TRIAL_VARIABLE]: isOnTrial ? "1" : undefined,
      },
      // Signals of a terminal are for the supervisor.
      detached: true,
    });
    this.#child.once("exit", (code, signal) => this.#exited({ code, signal }));
    // Not started at all: there is no exit then.
    this.#child.on("error", (error) => {
      if (this.pid === 0) this.#exited({ code: 1, signal: null, error: error.message });
    });
    this.#watch = watchReadable(ours.fd, () => this.#receive());
    this.#watch.arm();
  }

  /** 0: it could not be started. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  send(message: SupervisorMessage): void {
    this.sendLater(() => ({ message, fds: [] }));
  }

  sendLater(draft: Draft): void {
    this.#drafts.push(draft);
    if (this.#retry === undefined) this.#flush();
  }

  kill(reason: string): void {
    this.killedFor ??= reason;
    this.#child.kill("SIGKILL");
  }

  /** Handles what has come: who judges its silence must have heard all. */
  receiveNow(): "more" | "done" {
    for (let count = 0; count < PACKETS_PER_TURN && !this.#isClosed; count++) {
      const packet = receivePacket(this.#socket.fd);
      if (packet === "empty") return "done";
      if (packet === "closed") {
        this.#close();
        return "done";
      }
      if (packet === "cut") {
        this.#wrong("its descriptors could not be received: RLIMIT_NOFILE is reached");
        continue;
      }
      const message = parsePagerMessage(packet.text, packet.fds.length);
      if (message.type === "malformed" || this.killedFor === WRONG) {
        for (const fd of packet.fds) fd.close();
        if (message.type === "malformed") this.#wrong(message.problem);
        continue;
      }
      this.heardAtMs = performance.now();
      try {
        this.#events.onMessage(this, message, packet.fds);
      } catch (error) {
        this.#wrong(describeError(error));
      }
    }
    return this.#isClosed ? "done" : "more";
  }

  #receive(): void {
    try {
      this.receiveNow();
    } catch (error) {
      this.#wrong(describeError(error));
    }
    if (!this.#isClosed) this.#watch.arm();
  }

  #wrong(problem: string): void {
    if (this.killedFor === WRONG) return;
    this.killedFor = WRONG;
    this.#child.kill("SIGKILL");
    this.#events.onWrong(this, problem);
  }

  #exited(exit: PagerExit): void {
    this.#exit = exit;
    if (this.#isClosed) {
      this.#events.onGone(this, exit);
      return;
    }
    // The kernel has closed its end before it told us: what is there now is all.
    while (this.receiveNow() === "more");
    if (!this.#isClosed) this.#close();
  }

  /** A pager without a channel is of no use, and must not touch VMs. */
  #close(): void {
    this.#isClosed = true;
    this.#watch.close();
    this.#socket.close();
    clearTimeout(this.#retry);
    this.#drafts.length = 0;
    // A process that ends closes it first: this changes nothing then.
    if (this.#exit === null) this.#child.kill("SIGKILL");
    else this.#events.onGone(this, this.#exit);
  }

  #flush(): void {
    this.#retry = undefined;
    while (!this.#isClosed && this.#drafts.length > 0) {
      const packet = this.#drafts[0]!();
      try {
        if (packet !== null) sendPacket(this.#socket.fd, packet.message, packet.fds);
        this.#drafts.shift();
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
        if (error.errno === EPIPE) return; // Its end comes, and is told by its exit.
        this.#retry = setTimeout(() => this.#flush(), SEND_RETRY_MS);
        return;
      }
    }
  }
}

const WRONG = "it said something wrong";
