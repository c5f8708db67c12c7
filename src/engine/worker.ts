/**
 * A fault worker: one thread, one epoll, any number of VMs. It blocks in the kernel instead of
 * running an event loop; the main thread reaches it through a message and its control eventfd.
 */
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { describeError, SysError } from "../base/errors.ts";
import { Cause } from "../base/restore-causes.ts";
import { ENOMEM } from "../linux/abi-posix.ts";
import { monotonicUs } from "../linux/clock.ts";
import { Epoll } from "../linux/epoll.ts";
import { drainEventFd, signalEventFd } from "../linux/eventfd.ts";
import { killByPidfd } from "../linux/process.ts";
import { requestSlice, threadId } from "../linux/scheduling.ts";
import { sched_yield } from "../linux/sys.ts";
import { ActionList } from "../pager/actions.ts";
import { SpinPacer, StepPacer } from "../pager/pacing.ts";
import type { PartCost } from "../source/part-cost.ts";
import { EventBatch } from "../uffd/events.ts";
import { About } from "./intake.ts";
import { PageBuffers } from "./page-buffers.ts";
import { PartNeeds } from "./part-needs.ts";
import type { Step } from "./session-prefault.ts";
import { SurvivingBatch } from "./surviving-batches.ts";
import type {
  EndReason,
  FromWorker,
  PrefaultEnd,
  SessionSetup,
  ToWorker,
  WorkerSetup,
} from "./wire.ts";
import { type Turn, WorkerSession } from "./worker-session.ts";
import type { NeedVerdict, WorkerTools } from "./worker-tools.ts";

/** Descriptors that one wait can report; the rest comes with the next. */
const EVENTS_PER_WAIT = 64;
/** Messages taken before faults are looked for again; the rest comes with the next wait. */
const MESSAGES_PER_WAIT = 64;
/** How long a session rests that cannot go on at once: events in delivery, an empty pool. */
const LATER_US = 1000;
/** A process that exits loses its memory a moment before its pidfd tells. exec loses it too. */
const EXIT_GRACE_US = 1e6;
/** How long a session rests for which a page cannot be had now, and whose policy is to wait. */
const REST_US = 1e6;
/** The shortest slice that the kernel takes: a vCPU waits for this thread (decision 9). */
const SLICE_NS = 100_000;

/** A wait shorter than this is not worth a sleep: epoll's clock has milliseconds. */
const SHORT_WAIT_US = 100;
/** After the last page of a VM that is let go: what its kernel queued before must still be read. */
const FAREWELL_US = 1e6;
class FaultWorker {
  readonly #port: MessagePort;
  readonly #controlFd: number;
  readonly #epoll = Epoll.create(EVENTS_PER_WAIT);
  readonly #sessions = new Map<number, WorkerSession>();
  readonly #pacer: SpinPacer;
  readonly #stepPacer = new StepPacer();
  readonly #tools: WorkerTools;
  readonly #needs: PartNeeds<WorkerSession>;
  /** Sessions with work that no event will announce, and when it is due (monotonicUs; 0: now). */
  readonly #unfinished = new Map<WorkerSession, number>();
  /** Sessions with pages to install ahead of their faults; the first is the next one's turn. */
  readonly #ahead = new Set<WorkerSession>();
  /** Sessions whose faults need parts that could not be asked for; the first waits longest. */
  readonly #heldBack = new Set<WorkerSession>();
  /** Sessions whose VMs need nothing more, and when they are let go (monotonicUs). */
  readonly #leaving = new Map<WorkerSession, number>();
  #isStopping = false;
  #isSpinning = false;
  #lastActiveUs = 0;
  /** Sessions that have had their turn since the last wait, and when the first had. */
  #dispatched = 0;
  #dispatchUs = 0;
  #wasAsleep = false;
  /** When a step ahead began, if nothing has come between; 0: none did. */
  #stepUs = 0;
  /** How often the loop of `run` has begun. */
  #pass = 0;

  constructor(port: MessagePort, setup: WorkerSetup) {
    this.#port = port;
    this.#controlFd = setup.controlFd;
    this.#pacer = new SpinPacer(setup.spin);
    this.#needs = new PartNeeds((message) => this.#send(message));
    const survivor = setup.batchAddress === null ? null : new SurvivingBatch(setup.batchAddress);
    this.#tools = {
      batch: survivor?.batch ?? new EventBatch(),
      survivor,
      actions: new ActionList(),
      buffers: new PageBuffers(),
      need: (session, part, isUrgent) => this.#need(session, part, isUrgent),
      unexpected: (nowUs) => this.#stepPacer.observeUnexpected(nowUs),
      tellWait: ({ id }, message) => this.#send({ type: "waits", id, message }),
    };
    this.#epoll.add(setup.controlFd, 0, About.control);
  }

  run(): void {
    this.#send({ type: "ready", threadId: threadId() });
    for (this.#pass = 1; !this.#isStopping; this.#pass += 1) {
      const timeoutMs = this.#timeoutMs();
      const count = this.#epoll.wait(timeoutMs);
      this.#wasAsleep = timeoutMs !== 0;
      // What comes after a sleep has met no step.
      if (this.#wasAsleep) this.#stepUs = 0;
      this.#dispatched = 0;
      for (let index = 0; index < count; index++) {
        this.#dispatch(this.#epoll.tagLow(index), this.#epoll.tagHigh(index) as About);
      }
      if (count === 0) this.#stepUs = 0;
      if (count === 0 && this.#isSpinning) this.#considerSleep();
      if (this.#unfinished.size > 0) this.#goOn();
      if (this.#heldBack.size > 0) this.#relieve();
      if (count === 0 && this.#ahead.size > 0) this.#goAhead();
      if (this.#leaving.size > 0) this.#partFromComplete();
    }
    for (const session of this.#sessions.values()) this.#drop(session);
    this.#tools.buffers.close();
    this.#epoll.close();
  }

  #timeoutMs(): number {
    if (this.#isSpinning) return 0;
    // The way of every fault of a VM for which nothing else is to be done: no walk, no iterator.
    const { size: held } = this.#heldBack;
    if (held + this.#unfinished.size + this.#ahead.size + this.#leaving.size === 0) return -1;
    for (const session of this.#heldBack) if (this.#needs.roomFor(session) > 0) return 0;
    let earliestUs = Number.POSITIVE_INFINITY;
    for (const dueUs of this.#unfinished.values()) earliestUs = Math.min(earliestUs, dueUs);
    for (const dueUs of this.#leaving.values()) earliestUs = Math.min(earliestUs, dueUs);
    const heldUs = this.#stepPacer.heldUntilUs;
    for (const { prefault } of this.#ahead) {
      earliestUs = Math.min(earliestUs, Math.max(heldUs, prefault!.dueUs));
    }
    if (earliestUs === Number.POSITIVE_INFINITY) return -1;
    const waitUs = earliestUs - monotonicUs();
    return waitUs < SHORT_WAIT_US ? 0 : Math.max(1, Math.ceil(waitUs / 1000));
  }

  #dispatch(id: number, about: About): void {
    if (about === About.control) {
      this.#takeMessages();
      return;
    }
    // An earlier event of the same wait may have ended the session.
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    if (about === About.process) {
      this.#end(session, "exited");
      return;
    }
    session.notify(about);
    const nowUs = monotonicUs();
    this.#learn(session, nowUs);
    this.#pacer.observeGap(nowUs - this.#lastActiveUs);
    session.turnedInPass = this.#pass;
    this.#turn(session, nowUs);
    this.#lastActiveUs = session.lastActiveUs;
    this.#isSpinning = this.#pacer.budgetUs > 0;
  }

  /** Tells a session since when its faults wait, if the worker was busy when they came. */
  #learn({ clock }: WorkerSession, nowUs: number): void {
    if (this.#dispatched === 0) this.#dispatchUs = nowUs;
    clock.notify(this.#wasAsleep && this.#dispatched === 0);
    // A step ahead ended just before: on the average, they came in the middle of it.
    const aheadUs = this.#stepUs === 0 ? 0 : this.#dispatchUs - this.#stepUs;
    if (aheadUs > 0) clock.learn(this.#dispatchUs - aheadUs / 2, Cause.ahead);
    // Those of other VMs came with the same wait, and had their turn before.
    else if (this.#dispatched > 0) clock.learn(this.#dispatchUs, Cause.queue);
    this.#dispatched += 1;
    this.#stepUs = 0;
  }

  #turn(session: WorkerSession, nowUs: number): void {
    let turn: Turn;
    try {
      turn = session.turn(nowUs);
    } catch (error) {
      turn = failInternally(session, error);
    }
    this.#conclude(session, turn, nowUs);
  }

  #conclude(session: WorkerSession, ended: Turn, nowUs: number): void {
    const turn = ended === "again" && session.hasStuckWriters ? "later" : ended;
    if (turn === "again") this.#unfinished.set(session, 0);
    else if (turn === "later") this.#unfinished.set(session, nowUs + LATER_US);
    else if (turn === "rest") this.#unfinished.set(session, nowUs + REST_US);
    else if (this.#unfinished.size > 0) this.#unfinished.delete(session);
    if (turn === "gone") this.#expectExit(session, nowUs);
    else if (turn === "failed") this.#fail(session);
  }

  /** `session` lacks a part. Asks for it, unless it was asked for already, or it is too many. */
  #need(session: WorkerSession, part: number, isUrgent: boolean): NeedVerdict {
    const verdict = this.#needs.add(session, part, isUrgent);
    if (verdict !== "asked") this.#heldBack.add(session);
    return verdict;
  }

  /** The answer to a need: the faults that waited for the part are settled now. */
  #settleNeed(part: number, lossMessage: string, cost: PartCost | null): void {
    const { sinceUs, sessions } = this.#needs.take(part);
    for (const session of sessions) {
      if (!session.isWatched) continue;
      session.prefault?.settlePart(part, lossMessage !== "");
      const nowUs = monotonicUs();
      const turn = attempt(session, () =>
        session.turnForPart({ part, sinceUs, lossMessage, cost }, nowUs),
      );
      this.#conclude(session, turn, nowUs);
    }
  }

  /**
   * Parts have been answered, so others can be asked for, in the order in which VMs began to wait.
   * Nobody waits for ever: who is held back without room has parts under way, its own or those of
   * others, and the answer to each, good or bad, makes room.
   */
  #relieve(): void {
    let left = this.#heldBack.size;
    for (const session of this.#heldBack) {
      if (left-- === 0) return;
      const room = this.#needs.roomFor(session);
      if (room === 0) continue;
      // To the end of the line, if it has to wait again.
      this.#heldBack.delete(session);
      const nowUs = monotonicUs();
      const turn = attempt(session, () => session.turnForRoom(room, nowUs));
      this.#conclude(session, turn, nowUs);
      if (session.isWatched && session.isHeldBack) this.#heldBack.add(session);
    }
  }

  /** Sessions that had to stop in the middle: events in delivery need the VMM's thread to run. */
  #goOn(): void {
    sched_yield();
    const nowUs = monotonicUs();
    for (const [session, dueUs] of this.#unfinished) {
      // One turn for each before others are looked at again.
      if (dueUs > nowUs || session.turnedInPass === this.#pass) continue;
      if (session.isWatched) this.#turn(session, nowUs);
      else this.#end(session, "gone");
    }
  }

  /**
   * No fault of any VM waits: the next VM has some pages installed ahead of its faults. One step at
   * a time, because a fault may come meanwhile.
   */
  #goAhead(): void {
    const nowUs = monotonicUs();
    if (nowUs < this.#stepPacer.heldUntilUs) return;
    for (const session of this.#ahead) {
      const prefault = session.prefault!;
      if (prefault.dueUs > nowUs) continue;
      // To the end of the line. (A Set goes on with what is added while it is walked through.)
      this.#ahead.delete(session);
      this.#ahead.add(session);
      this.#stepPacer.observeStep(nowUs);
      this.#stepUs = nowUs;
      const step = attempt(session, () => session.stepAhead(nowUs));
      this.#concludeStep(session, step);
      return;
    }
  }

  #concludeStep(session: WorkerSession, step: Step | "failed"): void {
    if (step === "failed") {
      this.#fail(session);
      return;
    }
    switch (step) {
      case "more":
      case "waiting":
        return;
      case "done":
        if (session.prefault!.completes) this.#complete(session);
        else this.#endPrefault(session, "done");
        return;
      case "stopped":
        this.#endPrefault(session, "stopped");
        return;
      case "gone":
        this.#expectExit(session, monotonicUs());
        return;
    }
  }

  #endPrefault(session: WorkerSession, end: PrefaultEnd): void {
    if (session.prefault === null) return;
    const nowUs = monotonicUs();
    session.endPrefault(nowUs);
    this.#ahead.delete(session);
    const afterUs = nowUs - session.attachedUs;
    this.#send({ type: "prefaulted", id: session.id, end, afterUs });
  }

  /** Every page is there: the VM can do without us. */
  #complete(session: WorkerSession): void {
    if (session.mustStay) {
      this.#endPrefault(session, "kept");
      return;
    }
    const nowUs = monotonicUs();
    try {
      if (!session.letGo()) {
        session.prefault!.dueUs = nowUs + LATER_US;
        // What it has read will not be announced again.
        this.#turn(session, nowUs);
        return;
      }
    } catch (error) {
      // A region that the VMM has unmapped cannot be let go: its events are read on.
      const isGone = error instanceof SysError && error.errno === ENOMEM;
      if (isGone) this.#expectExit(session, nowUs);
      else this.#endPrefault(session, "kept");
      return;
    }
    this.#endPrefault(session, "done");
    this.#leaving.set(session, nowUs + FAREWELL_US);
  }

  /** A thread of the VMM that gave memory back a moment ago waits until its event is read. */
  #partFromComplete(): void {
    const nowUs = monotonicUs();
    for (const [session, dueUs] of this.#leaving) {
      if (dueUs <= nowUs) this.#end(session, "complete");
    }
  }

  #considerSleep(): void {
    if (monotonicUs() - this.#lastActiveUs >= this.#pacer.budgetUs) this.#isSpinning = false;
  }

  #takeMessages(): void {
    drainEventFd(this.#controlFd);
    for (let taken = 0; taken < MESSAGES_PER_WAIT; taken++) {
      const received: { message: ToWorker } | undefined = receiveMessageOnPort(this.#port);
      if (received === undefined) return;
      this.#obey(received.message);
    }
    // Parts that come may lead to others being asked for, without end: faults have their turn too.
    signalEventFd(this.#controlFd);
  }

  #obey(message: ToWorker): void {
    if (message.type === "stop") {
      this.#isStopping = true;
    } else if (message.type === "attach") {
      this.#attach(message.session);
    } else if (message.type === "arrived") {
      this.#settleNeed(message.part, "", message.cost);
      this.#send({ type: "settled", part: message.part });
    } else if (message.type === "lost") {
      this.#settleNeed(message.part, message.message, null);
    } else if (message.type === "ping") {
      this.#send({ type: "pong", number: message.number });
    } else {
      const session = this.#sessions.get(message.id);
      if (session === undefined) return;
      if (message.type === "detach") this.#end(session, "detached");
      else if (message.type === "complete") this.#beginCompletion(session);
      else if (message.type === "trace") session.clock.traceInto(message.ring);
      else if (message.type === "cancelPrefault") this.#endPrefault(session, "cancelled");
      // Only here is the pidfd sure to be the session's, which ends when its process has.
      else this.#send({ type: "killed", id: session.id, kill: killByPidfd(session.pidfd.fd) });
    }
  }

  /** Of a VM that is dying, or being let go, there is nothing to complete. */
  #beginCompletion(session: WorkerSession): void {
    if (!session.isWatched || this.#leaving.has(session)) return;
    session.completePrefault();
    this.#ahead.add(session);
  }

  #attach(setup: SessionSetup): void {
    try {
      const session = new WorkerSession(setup, this.#tools);
      session.begin(setup.isTakeover);
      this.#watch(session);
      this.#sessions.set(session.id, session);
      if (session.prefault !== null) this.#ahead.add(session);
      // KVM tells of nothing in a ring until that was looked at for the first time.
      if (session.watched.length > 0) this.#unfinished.set(session, 0);
    } catch (error) {
      // Not watched, so never served: its descriptors stay open, lest it reads zeroes until it
      // dies.
      const [{ id }, kill] = [setup, killByPidfd(setup.pidfd)];
      this.#send({ type: "failed", id, message: describeError(error), kill });
      this.#send({ type: "ended", id, reason: "gone" });
    }
  }

  #watch(session: WorkerSession): void {
    this.#epoll.add(session.uffd.fd, session.id, About.faults);
    try {
      this.#epoll.add(session.pidfd.fd, session.id, About.process);
      for (const { fd, about } of session.watched) this.#epoll.addEdge(fd, session.id, about);
      session.isWatched = true;
    } catch (error) {
      this.#epoll.remove(session.uffd.fd);
      throw error;
    }
  }

  /**
   * Fails closed: the VM is killed, and the session ends when its process is gone. Where we may not
   * kill it, it stays frozen: closing the last userfaultfd would give it zero pages for data.
   */
  #fail(session: WorkerSession): void {
    this.#unwatch(session);
    const kill = session.mayKill ? killByPidfd(session.pidfd.fd) : "denied";
    this.#send({ type: "failed", id: session.id, message: session.failure, kill });
  }

  /** The memory is gone: the process is about to exit, or it has called exec. */
  #expectExit(session: WorkerSession, nowUs: number): void {
    this.#unwatch(session);
    this.#unfinished.set(session, nowUs + EXIT_GRACE_US);
  }

  #unwatch(session: WorkerSession): void {
    if (session.isWatched) {
      this.#epoll.remove(session.uffd.fd);
      for (const { fd } of session.watched) this.#epoll.remove(fd);
    }
    session.isWatched = false;
    this.#ahead.delete(session);
    this.#heldBack.delete(session);
    this.#leaving.delete(session);
  }

  #end(session: WorkerSession, reason: EndReason): void {
    this.#drop(session);
    this.#send({ type: "ended", id: session.id, reason });
  }

  #drop(session: WorkerSession): void {
    this.#sessions.delete(session.id);
    this.#unfinished.delete(session);
    // The VMM holds a duplicate of the userfaultfd: closing ours alone would leave it in the epoll.
    this.#unwatch(session);
    this.#epoll.remove(session.pidfd.fd);
    this.#tools.survivor?.forget(session.survivalId);
    session.close();
  }

  #send(message: FromWorker): void {
    this.#port.postMessage(message);
  }
}

/** A bug fails the session, and not the worker with all of its sessions. */
function attempt<Result>(session: WorkerSession, act: () => Result): Result | "failed" {
  try {
    return act();
  } catch (error) {
    return failInternally(session, error);
  }
}

function failInternally(session: WorkerSession, error: unknown): "failed" {
  session.failure = `Internal error: ${describeError(error)}`;
  return "failed";
}

assert(parentPort !== null, "this file is a worker's entry");
const { port, setup } = workerData as { port: MessagePort; setup: WorkerSetup };
requestSlice(SLICE_NS);
new FaultWorker(port, setup).run();
