/** The main thread's end of one fault worker. */
import { setTimeout as delay } from "node:timers/promises";
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { describeError } from "../base/errors.ts";
import { EventFd } from "../linux/eventfd.ts";
import { killByPidfd } from "../linux/process.ts";
import type { PartCost } from "../source/part-cost.ts";
import type { Session } from "./session.ts";
import type { FromWorker, KillResult, SessionSetup, ToWorker, WorkerSetup } from "./wire.ts";

/** Brings parts of images to where fault workers find them. The main thread's. */
export interface PartSupply {
  /**
   * Resolves when the part is in memory, where it stays until `release`; or rejects. With what it
   * took, if that is known. `isUrgent`: guests wait for it.
   */
  demand(part: number, isUrgent: boolean): Promise<PartCost | null>;
  /** Guests now wait for what was demanded without urgency. */
  hurry(part: number): void;
  release(part: number): void;
}

/** The next try for a part that could not be had comes after this. */
const REST_AFTER_LOSS_MS = 1000;

export class WorkerHandle {
  readonly #worker: Worker;
  readonly #supply: PartSupply | null;
  /** Pins that the worker has not given back. */
  readonly #pins = new Map<number, number>();
  /** When a part could last not be had. */
  readonly #lostAtMs = new Map<number, number>();
  readonly #port: MessagePort;
  readonly #control = EventFd.create();
  readonly #sessions = new Map<number, { session: Session; pidfd: number }>();
  /** Who waits to hear that a VM was killed. */
  readonly #kills = new Map<number, (result: KillResult) => void>();
  readonly #exited: Promise<void>;
  readonly ready: Promise<void>;
  #isAlive = true;
  #threadId = 0;
  /** Who waits for the answer to a ping. */
  readonly #pings = new Map<number, (hasAnswered: boolean) => void>();
  #nextPing = 0;

  /** `onCrash`: the thread has died of a bug; its VMs have been killed. */
  constructor(
    setup: Omit<WorkerSetup, "controlFd">,
    supply: PartSupply | null,
    onCrash: (error: unknown) => void,
  ) {
    this.#supply = supply;
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), {
      name: "fault-worker",
      workerData: { port: port2, setup: { ...setup, controlFd: this.#control.fd } },
      transferList: [port2],
    });
    this.#exited = new Promise((resolve) => this.#worker.once("exit", () => resolve()));
    this.ready = new Promise((resolve, reject) => {
      this.#worker.once("error", (error) => {
        reject(error);
        this.#onCrash(error);
        onCrash(error);
      });
      port1.on("message", (message: FromWorker) => {
        if (message.type !== "ready") this.#onMessage(message);
        else {
          this.#threadId = message.threadId;
          resolve();
        }
      });
    });
  }

  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** Of the kernel; 0 before it is ready. */
  get threadId(): number {
    return this.#threadId;
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  attach(session: Session, setup: SessionSetup): void {
    this.#sessions.set(session.id, { session, pidfd: setup.pidfd });
    this.#send({ type: "attach", session: setup });
  }

  /** Lets go of a session, if it is one of this worker's. */
  detach(session: Session): void {
    if (this.#sessions.has(session.id)) this.#send({ type: "detach", id: session.id });
  }

  has(session: Session): boolean {
    return this.#sessions.has(session.id);
  }

  /** Of a session of this worker's. */
  kill(session: Session): Promise<KillResult> {
    return new Promise((resolve) => {
      // Whoever asks twice is answered twice, and once the VM is gone.
      const before = this.#kills.get(session.id);
      this.#kills.set(session.id, (result) => {
        before?.(result);
        resolve(result);
      });
      void session.ended.then(() => this.#answerKill(session.id, "gone"));
      this.#send({ type: "kill", id: session.id });
    });
  }

  /** Installs nothing more ahead of a session's faults, if it is one of this worker's. */
  cancelPrefault(session: Session): void {
    if (this.#sessions.has(session.id)) this.#send({ type: "cancelPrefault", id: session.id });
  }

  /** Traces into `ring` from now on, or no more, if it is one of this worker's. */
  trace(session: Session, ring: SharedArrayBuffer | null): void {
    if (this.#sessions.has(session.id)) this.#send({ type: "trace", id: session.id, ring });
  }

  /** Installs the rest, and lets the VM go, if it is one of this worker's. */
  complete(session: Session): void {
    if (this.#sessions.has(session.id)) this.#send({ type: "complete", id: session.id });
  }

  /** Whether the thread takes a message and answers it in time. One that has died does not. */
  async answersWithin(deadlineMs: number): Promise<boolean> {
    if (!this.#isAlive) return false;
    const number = this.#nextPing++;
    let timer: NodeJS.Timeout | undefined;
    const answer = new Promise<boolean>((resolve) => {
      this.#pings.set(number, resolve);
      timer = setTimeout(() => resolve(false), deadlineMs);
    });
    this.#send({ type: "ping", number });
    const hasAnswered = await answer;
    clearTimeout(timer);
    this.#pings.delete(number);
    return hasAnswered;
  }

  /**
   * Asks the thread to end, without waiting. A thread that waits for faults in the kernel ends only
   * if it is asked: process.exit() would hang on it for ever.
   */
  requestStop(): void {
    this.#send({ type: "stop" });
  }

  /** Stops the thread; its VMs lose their handler. */
  async stop(): Promise<void> {
    this.requestStop();
    await this.#exited;
    for (const { session } of this.#sessions.values()) session.end("stopped");
    this.#sessions.clear();
    this.#dropPins();
    this.#port.close();
    this.#control.close();
  }

  #send(message: ToWorker): void {
    this.#port.postMessage(message);
    this.#control.signal();
  }

  #onMessage(message: Exclude<FromWorker, { type: "ready" }>): void {
    if (message.type === "need") {
      void this.#bring(message.part, message.isUrgent);
      return;
    }
    if (message.type === "hurry") {
      this.#supply?.hurry(message.part);
      return;
    }
    if (message.type === "settled") {
      this.#unpin(message.part);
      return;
    }
    if (message.type === "pong") {
      this.#pings.get(message.number)?.(true);
      return;
    }
    if (message.type === "killed") {
      this.#answerKill(message.id, message.kill);
      return;
    }
    const entry = this.#sessions.get(message.id);
    if (entry === undefined) return;
    if (message.type === "waits") {
      entry.session.onWait(message.message);
      return;
    }
    if (message.type === "prefaulted") {
      entry.session.endPrefault(message.end, message.afterUs);
      return;
    }
    if (message.type === "failed") {
      entry.session.fail({ message: message.message, kill: message.kill });
      return;
    }
    this.#sessions.delete(message.id);
    entry.session.end(message.reason);
  }

  #answerKill(id: number, result: KillResult): void {
    this.#kills.get(id)?.(result);
    this.#kills.delete(id);
  }

  async #bring(part: number, isUrgent: boolean): Promise<void> {
    assert(this.#supply !== null, "a worker needs a part of an image, but nobody brings any");
    await this.#restAfterLoss(part);
    if (!this.#isAlive) return;
    let cost: PartCost | null;
    try {
      cost = await this.#supply.demand(part, isUrgent);
    } catch (error) {
      this.#lostAtMs.set(part, performance.now());
      if (this.#isAlive) this.#send({ type: "lost", part, message: describeError(error) });
      return;
    }
    this.#lostAtMs.delete(part);
    this.#pins.set(part, (this.#pins.get(part) ?? 0) + 1);
    if (this.#isAlive) this.#send({ type: "arrived", part, cost });
    else this.#unpin(part);
  }

  /** With policy `wait` a part that cannot be had is needed again at once. */
  async #restAfterLoss(part: number): Promise<void> {
    const lostAtMs = this.#lostAtMs.get(part);
    if (lostAtMs === undefined) return;
    const restMs = lostAtMs + REST_AFTER_LOSS_MS - performance.now();
    if (restMs > 0) await delay(restMs, undefined, { ref: false });
  }

  #unpin(part: number): void {
    const count = this.#pins.get(part);
    if (count === undefined) return;
    if (count === 1) this.#pins.delete(part);
    else this.#pins.set(part, count - 1);
    this.#supply?.release(part);
  }

  /** The thread is over: what was pinned for it may go. */
  #dropPins(): void {
    this.#isAlive = false;
    for (const answer of this.#pings.values()) answer(false);
    for (const part of [...this.#pins.keys()]) {
      while (this.#pins.has(part)) this.#unpin(part);
    }
  }

  /**
   * The thread itself has died, which is a bug. Nobody answers its VMs any more, so they are
   * killed; their descriptors stay open until this process ends, lest a VM read zeroes for data
   * meanwhile.
   */
  #onCrash(error: unknown): void {
    this.#dropPins();
    for (const { session, pidfd } of this.#sessions.values()) {
      const kill = killByPidfd(pidfd);
      session.fail({ message: `The fault worker crashed: ${describeError(error)}`, kill });
      session.end("gone");
    }
    this.#sessions.clear();
  }
}
