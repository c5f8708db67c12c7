/**
 * Keeps what VMs cannot do without, their descriptors, while pagers come and go. It starts a pager,
 * and one in advance that stands by; when the first dies, the second gets everything.
 *
 * Whatever happens, `#advance` decides what comes next, from what there is. A pager is replaced by
 * killing it, never by asking: there is one path for crashes and reloads, so it is one that works.
 */
import { readFileSync } from "node:fs";
import { describeError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { lockRunFolder } from "./daemon-lock.ts";
import { KeptEntries } from "./kept-entries.ts";
import type { Log } from "./log.ts";
import { batchLength, type PagerMessage } from "./messages.ts";
import { type PagerCommand, type PagerExit, PagerProcess } from "./pager-process.ts";
import { ServiceManager } from "./service-manager.ts";

/** Three missed words of a pager that speaks every few seconds. */
const WATCHDOG_MS = 15_000;
/** Node on a busy machine needs seconds; this is for one that will never come up. */
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 30_000;
/** VMs stand still until the next daemon: there is no time for niceties. */
const STORED_STOP_TIMEOUT_MS = 2000;
/** Between tries with pagers that die before they serve: from the one to the other. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
/** How long pagers may take to die when the daemon ends. */
const KILL_TIMEOUT_MS = 5000;
/** Descriptors that the supervisor needs for itself: Node's, channels, a pager that is started. */
const OWN_FDS = 64;

export interface SupervisorOptions {
  readonly pager: PagerCommand;
  /** Holds the daemon's lock. */
  readonly runFolder: string;
  readonly log: Log;
  /** A second pager in advance. Default: yes. */
  readonly hasStandby?: boolean;
  /** A pager that is silent for so long is killed, whether it serves or stands by. */
  readonly watchdogMs?: number;
  /** A pager that does not stand by after so long is killed. */
  readonly startTimeoutMs?: number;
  readonly stopTimeoutMs?: number;
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #log: Log;
  readonly #lock: OwnedFd;
  readonly #service: ServiceManager;
  readonly #entries: KeptEntries;
  readonly #maxFds: number;
  /** Entries that the service manager had stored. */
  readonly #storedCount: number;
  /** All that are not dead. */
  readonly #pagers = new Set<PagerProcess>();
  #active: PagerProcess | null = null;
  #standby: PagerProcess | null = null;
  /** The new one of a reload. */
  #candidate: PagerProcess | null = null;
  #hasServed = false;
  #watchedAtMs = performance.now();
  /** When VMs were last without a pager. */
  #stalledAtMs = performance.now();
  /** Pagers in a row that died before they served. */
  #failures = 0;
  #pause: NodeJS.Timeout | null = null;
  #stopTimer: NodeJS.Timeout | null = null;
  #exitCode: number | null = null;
  #onEnd: (exitCode: number) => void = () => undefined;

  private constructor(options: SupervisorOptions, lock: OwnedFd) {
    this.#options = options;
    this.#log = options.log;
    this.#lock = lock;
    this.#service = ServiceManager.find(options.log);
    const { hasStore, storeCapacity } = this.#service;
    const maxFds = Math.max(0, openFileLimit() - OWN_FDS);
    this.#maxFds = hasStore ? Math.min(maxFds, storeCapacity) : maxFds;
    this.#entries = new KeptEntries(this.#maxFds);
    this.#entries.onAccepted = (connection) => this.#accepted(connection);
    this.#entries.onAcceptFailed = (listener, reason) =>
      this.#log("error", "Cannot accept a connection for now", { entry: listener, reason });
    for (const { name, fds } of this.#service.takeStored()) this.#entries.keep(name, fds);
    this.#storedCount = this.#entries.size;
  }

  /**
   * Runs the daemon until it is told to end by a signal; SIGHUP replaces its pager.
   * @returns the exit code: 0, or that of a first pager which could not start
   * @throws FaultlineError `conflict` another daemon runs in this folder
   */
  static async run(options: SupervisorOptions): Promise<number> {
    using lock = await lockRunFolder(options.runFolder);
    const supervisor = new Supervisor(options, lock);
    return await supervisor.#run();
  }

  async #run(): Promise<number> {
    using service = this.#service;
    using _entries = this.#entries;
    const onStop = (signal: NodeJS.Signals): void => this.#stop(signal);
    const onReload = (): void => this.#reload();
    // A bug that one event meets must not cost all VMs: what is kept is kept.
    const onBug = (error: unknown): void => {
      const err = error instanceof Error ? error.stack : String(error);
      this.#log("error", "A bug in the supervisor: it goes on", { err });
      this.#advance();
    };
    process.on("SIGTERM", onStop).on("SIGINT", onStop).on("SIGHUP", onReload);
    process.on("uncaughtException", onBug);
    const watchdogMs = this.#options.watchdogMs ?? WATCHDOG_MS;
    const watchdog = setInterval(() => this.#watch(watchdogMs), watchdogMs / 4);
    try {
      return await new Promise((resolve) => {
        this.#onEnd = resolve;
        if (this.#storedCount > 0) {
          this.#log("info", "The daemon goes on with what is stored", {
            entries: this.#storedCount,
          });
        }
        service.beat();
        this.#advance();
      });
    } finally {
      clearInterval(watchdog);
      clearTimeout(this.#pause ?? undefined);
      clearTimeout(this.#stopTimer ?? undefined);
      process.off("SIGTERM", onStop).off("SIGINT", onStop).off("SIGHUP", onReload);
      process.off("uncaughtException", onBug);
    }
  }

  /** Does what comes next, if anything does. */
  #advance(): void {
    if (this.#exitCode !== null || this.#pause !== null) return;
    if (this.#active === null) {
      if (this.#standby === null) this.#standby = this.#start(this.#isFirst);
      else if (this.#standby.state === "ready") this.#handOver(this.#standby);
    } else if (this.#active.state === "serving" && this.#stopTimer === null) {
      if (this.#options.hasStandby !== false) this.#standby ??= this.#start();
    }
  }

  #start(isOnTrial = false): PagerProcess | null {
    try {
      const pager = new PagerProcess({ ...this.#options.pager, isOnTrial }, this.#lock, {
        onMessage: (from, message, fds) => this.#take(from, message, fds),
        onWrong: ({ pid }, problem) =>
          this.#log("error", "A pager said something wrong: it is killed", { pid, problem }),
        onGone: (from, exit) => this.#gone(from, exit),
      });
      this.#pagers.add(pager);
      return pager;
    } catch (error) {
      this.#log("error", "A pager cannot be started", { err: describeError(error) });
      this.#backOff();
      return null;
    }
  }

  #handOver(pager: PagerProcess): void {
    this.#standby = null;
    this.#active = pager;
    pager.state = "receiving";
    pager.heardAtMs = performance.now();
    // It asks anew for the connections that it wants to hear of.
    this.#entries.acceptNoMore();
    pager.send({ type: "takeOver", maxFds: this.#maxFds });
    const heads = this.#entries.heads();
    this.#sendBatch = (): void => {
      const entries = heads.splice(0, batchLength(heads));
      const isLast = heads.length === 0;
      if (isLast) pager.state = "restoring";
      pager.sendLater(() => {
        const fds = entries.flatMap(({ name }) => this.#entries.fdsOf(name) ?? []);
        return { message: { type: "entries", entries, isLast }, fds };
      });
      if (isLast && this.#stopTimer !== null) this.#sendStop(pager);
    };
  }

  #sendBatch: () => void = () => undefined;

  /** @throws what is wrong with it, if anything is: the pager is killed then */
  #take(pager: PagerProcess, message: PagerMessage, fds: readonly OwnedFd[]): void {
    if (message.type === "alive") return;
    if (message.type === "standingBy") {
      this.#standsBy(pager);
      return;
    }
    if (message.type === "next" && pager.state === "receiving") {
      this.#sendBatch();
      return;
    }
    if (pager.state !== "restoring" && pager.state !== "serving") {
      for (const fd of fds) fd.close();
      throw new Error(`${message.type} while ${pager.state}`);
    }
    switch (message.type) {
      case "serving":
        this.#serves(pager);
        return;
      case "keep":
        this.#keep(message.name, fds);
        return;
      case "drop":
        this.#drop(message.name);
        return;
      case "accept":
        this.#entries.accept(message.listener, message.connection);
        return;
      case "reload":
        this.#reload();
        return;
      case "finished":
        if (this.#stopTimer === null) throw new Error("finished without being asked to stop");
        this.#end(0);
        return;
      case "next":
        throw new Error(`next while ${pager.state}`);
    }
  }

  #standsBy(pager: PagerProcess): void {
    if (pager.state !== "starting") throw new Error(`standingBy while ${pager.state}`);
    pager.state = "ready";
    this.#log("debug", "A pager stands by", { pid: pager.pid });
    if (pager === this.#candidate) {
      this.#candidate = null;
      this.#standby?.kill(REPLACED);
      this.#standby = pager;
      // What was wrong may be mended in it.
      this.#forgetFailures();
      this.#active?.kill(REPLACED);
    }
    this.#advance();
  }

  #serves(pager: PagerProcess): void {
    if (pager.state !== "restoring") throw new Error(`serving while ${pager.state}`);
    pager.state = "serving";
    const stallMs = Math.round(performance.now() - this.#stalledAtMs);
    const { size: entries, fdCount } = this.#entries;
    const fields = { pid: pager.pid, entries, descriptors: fdCount };
    if (this.#hasServed) this.#log("info", "Another pager serves", { ...fields, stallMs });
    else this.#log("info", "The pager serves", fields);
    this.#hasServed = true;
    this.#failures = 0;
    if (this.#candidate === null) this.#service.ready();
    this.#advance();
  }

  #keep(name: string, fds: readonly OwnedFd[]): void {
    const before = this.#entries.fdsOf(name)?.length ?? 0;
    this.#entries.keep(name, fds);
    this.#service.remove(name, before);
    this.#service.store(name, this.#entries.fdsOf(name) ?? []);
  }

  #drop(name: string): void {
    this.#service.remove(name, this.#entries.fdsOf(name)?.length ?? 0);
    this.#entries.drop(name);
  }

  /** Tells the active pager; without one the next finds it among the entries. */
  #accepted(connection: string): void {
    this.#service.store(connection, this.#entries.fdsOf(connection) ?? []);
    this.#active?.sendLater(() => {
      const fds = this.#entries.fdsOf(connection);
      return fds && { message: { type: "accepted", connection }, fds };
    });
  }

  /** Starts a new pager. The old one serves until the new one stands by. */
  #reload(): void {
    if (this.#candidate !== null || this.#stopTimer !== null) return;
    this.#log("info", "Reloads: a new pager is started");
    this.#candidate = this.#start(true);
    if (this.#candidate !== null) this.#service.reloading();
    else this.#active?.send({ type: "reloadFailed", reason: "No pager could be started." });
  }

  #gone(pager: PagerProcess, exit: PagerExit): void {
    this.#pagers.delete(pager);
    if (this.#exitCode !== null) {
      this.#endIfAllAreGone();
      return;
    }
    const wasReplaced = pager.killedFor === REPLACED;
    const { pid, state, killedFor } = pager;
    this.#log(wasReplaced ? "info" : "error", "A pager ended", {
      pid,
      state,
      ...exit,
      ...(killedFor && { killedFor }),
    });
    if (pager === this.#candidate) {
      this.#candidate = null;
      this.#reloadFailed(exit, killedFor);
    } else if (pager === this.#active) {
      this.#active = null;
      this.#activeGone(pager, exit, wasReplaced);
    } else if (pager === this.#standby) {
      this.#standby = null;
      this.#failed(exit);
    }
    this.#advance();
  }

  #activeGone(pager: PagerProcess, exit: PagerExit, wasReplaced: boolean): void {
    if (this.#stopTimer !== null) {
      this.#end(0);
      return;
    }
    if (!wasReplaced && pager.state !== "serving") {
      this.#failed(exit);
      return;
    }
    this.#stalledAtMs = performance.now();
    // A standby that failed before must not delay the next.
    this.#forgetFailures();
  }

  /** Nobody depends on us yet. */
  get #isFirst(): boolean {
    return !this.#hasServed && this.#storedCount === 0;
  }

  /** One has died before it served. */
  #failed(exit: PagerExit): void {
    // It has said why: the configuration is wrong, most likely.
    if (this.#isFirst && exit.code !== null) {
      this.#end(exit.code === 0 ? 1 : exit.code);
      return;
    }
    this.#backOff();
  }

  /** The first time by nothing: a kill in the middle of a takeover is no reason to wait. */
  #backOff(): void {
    const factor = this.#failures === 0 ? 0 : 2 ** (this.#failures - 1);
    const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * factor);
    this.#failures += 1;
    if (pauseMs > 0) this.#log("warn", "Pagers do not come up: waits before the next", { pauseMs });
    clearTimeout(this.#pause ?? undefined);
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#advance();
    }, pauseMs);
  }

  #forgetFailures(): void {
    this.#failures = 0;
    clearTimeout(this.#pause ?? undefined);
    this.#pause = null;
  }

  #reloadFailed({ code, signal, error }: PagerExit, killedFor: string | null): void {
    const how = error ?? killedFor ?? (code === null ? `signal ${signal}` : `exit code ${code}`);
    const reason = `The new pager did not come up (${how}), so the old one stays. See the log.`;
    this.#log("error", "The reload has failed: the pager stays", { reason });
    this.#active?.send({ type: "reloadFailed", reason });
    if (this.#active?.state === "serving") this.#service.ready();
  }

  /** Kills those that hang. */
  #watch(watchdogMs: number): void {
    const startTimeoutMs = this.#options.startTimeoutMs ?? START_TIMEOUT_MS;
    const nowMs = performance.now();
    // All of us may have stood still, as in a frozen cgroup: they get as long as ever again.
    const stoodStill = nowMs - this.#watchedAtMs > watchdogMs / 2;
    this.#watchedAtMs = nowMs;
    for (const pager of this.#pagers) {
      if (stoodStill) pager.heardAtMs = nowMs;
      // If only this process stood still, their words are here, and unread.
      pager.receiveNow();
      const silentMs = nowMs - pager.heardAtMs;
      if (silentMs > (pager.state === "starting" ? startTimeoutMs : watchdogMs)) {
        pager.kill(`silent for ${Math.round(silentMs)} ms`);
      }
    }
  }

  #stop(signal: NodeJS.Signals): void {
    if (this.#stopTimer !== null) {
      this.#end(0);
      return;
    }
    const { hasStore } = this.#service;
    this.#log("info", "The daemon is told to end", { signal, isStored: hasStore });
    this.#service.stopping();
    if (this.#active === null && (hasStore || this.#entries.size === 0)) {
      this.#end(0);
      return;
    }
    this.#stopTimer = setTimeout(() => {
      this.#log("warn", "The pager did not finish in time: it is killed");
      this.#end(0);
    }, this.#stopTimeoutMs);
    // One that has not got all entries yet is told after the last.
    if (this.#active === null) this.#forgetFailures();
    else if (this.#active.state !== "receiving") this.#sendStop(this.#active);
    this.#advance();
  }

  #sendStop(pager: PagerProcess): void {
    const { hasStore: isStored } = this.#service;
    pager.send({ type: "stop", isStored, deadlineMs: this.#stopTimeoutMs });
  }

  get #stopTimeoutMs(): number {
    const timeoutMs = this.#options.stopTimeoutMs ?? STOP_TIMEOUT_MS;
    return this.#service.hasStore ? Math.min(timeoutMs, STORED_STOP_TIMEOUT_MS) : timeoutMs;
  }

  #end(exitCode: number): void {
    if (this.#exitCode !== null) return;
    this.#exitCode = exitCode;
    clearTimeout(this.#stopTimer ?? undefined);
    for (const pager of this.#pagers) pager.kill("the daemon ends");
    // Not for ever: the lock stays theirs if they do not die.
    this.#stopTimer = setTimeout(() => this.#onEnd(exitCode), KILL_TIMEOUT_MS);
    this.#endIfAllAreGone();
  }

  #endIfAllAreGone(): void {
    if (this.#exitCode !== null && this.#pagers.size === 0) this.#onEnd(this.#exitCode);
  }
}

const REPLACED = "a new one takes over";

/** Node has raised the soft limit to the hard one. See getrlimit(2). */
function openFileLimit(): number {
  const limits = readFileSync("/proc/self/limits", "utf8");
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? Number.MAX_SAFE_INTEGER : Number(soft);
}
