/**
 * systemd's side of the daemon: readiness, the watchdog, and its store of descriptors, in which
 * entries survive the supervisor too. See sd_notify(3), sd_pid_notify_with_fds(3),
 * sd_listen_fds(3).
 *
 * The store keeps names with single descriptors, in no certain order. An entry of several is stored
 * as `NAME/INDEX/COUNT`, and comes back only if all of it is there.
 */
import { describeError } from "../base/errors.ts";
import { monotonicUs } from "../linux/clock.ts";
import { OwnedFd, setCloseOnExec } from "../linux/fd.ts";
import { sendDatagram } from "../linux/socket.ts";
import type { Log } from "./log.ts";
import { isEntryName, MAX_FDS_PER_ENTRY } from "./messages.ts";

/** The first inherited descriptor. See sd_listen_fds(3). */
const LISTEN_FDS_START = 3;
/** The service manager is asked by everybody; a daemon that waits longer serves nobody. */
const SEND_TIMEOUT_MS = 2000;
/** What `partName` makes of an entry with several descriptors. */
const PART = /^(.+)\/(\d{1,3})\/(\d{1,3})$/;
const VARIABLES = [
  "NOTIFY_SOCKET",
  "WATCHDOG_USEC",
  "WATCHDOG_PID",
  "FDSTORE",
  "LISTEN_PID",
  "LISTEN_FDS",
  "LISTEN_FDNAMES",
] as const;

type Environment = Partial<Record<(typeof VARIABLES)[number], string>>;

export interface StoredEntry {
  readonly name: string;
  readonly fds: readonly OwnedFd[];
}

export class ServiceManager {
  readonly #environment: Environment;
  readonly #log: Log;
  #beat: NodeJS.Timeout | undefined;

  private constructor(environment: Environment, log: Log) {
    this.#environment = environment;
    this.#log = log;
  }

  /** What started this process, if anything did. Pagers do not inherit what it says. */
  static find(log: Log): ServiceManager {
    const environment: Environment = {};
    for (const name of VARIABLES) {
      const value = process.env[name];
      if (value !== undefined) environment[name] = value;
      delete process.env[name];
    }
    return new ServiceManager(environment, log);
  }

  get hasStore(): boolean {
    return this.storeCapacity > 0;
  }

  /** How many descriptors it stores; what is more it would drop without a word. */
  get storeCapacity(): number {
    const { NOTIFY_SOCKET, FDSTORE } = this.#environment;
    return NOTIFY_SOCKET === undefined ? 0 : Number(FDSTORE ?? 0);
  }

  /** What an earlier daemon has stored, or a socket unit has opened; to be called once. */
  takeStored(): StoredEntry[] {
    const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = this.#environment;
    if (Number(LISTEN_PID) !== process.pid) return [];
    const names = LISTEN_FDNAMES?.split(":") ?? [];
    const fds = Array.from({ length: Number(LISTEN_FDS) }, (_, index) => {
      setCloseOnExec(LISTEN_FDS_START + index);
      return new OwnedFd(LISTEN_FDS_START + index);
    });
    return this.#assemble(fds.map((fd, index) => [names[index] ?? "", fd] as const));
  }

  /** An entry that is stored under this name must be removed before. */
  store(name: string, fds: readonly number[]): void {
    if (!this.hasStore) return;
    for (const [index, fd] of fds.entries()) {
      const part = partName(name, index, fds.length);
      // Without polling: a connection that hangs up says something to the next pager.
      this.#tell(`FDSTORE=1\nFDPOLL=0\nFDNAME=${part}`, [fd]);
    }
  }

  remove(name: string, fdCount: number): void {
    if (!this.hasStore) return;
    for (let index = 0; index < fdCount; index++) {
      this.#tell(`FDSTOREREMOVE=1\nFDNAME=${partName(name, index, fdCount)}`);
    }
  }

  ready(): void {
    this.#tell("READY=1");
  }

  reloading(): void {
    this.#tell(`RELOADING=1\nMONOTONIC_USEC=${Math.floor(monotonicUs())}`);
  }

  stopping(): void {
    this.#tell("STOPPING=1");
  }

  /** Says that we live, twice as often as has to be. */
  beat(): void {
    const { WATCHDOG_USEC, WATCHDOG_PID } = this.#environment;
    const isForUs = WATCHDOG_PID === undefined || Number(WATCHDOG_PID) === process.pid;
    const periodUs = Number(WATCHDOG_USEC ?? 0);
    if (!isForUs || !(periodUs > 0)) return;
    this.#beat = setInterval(() => this.#tell("WATCHDOG=1"), periodUs / 2 / 1000);
    this.#tell("WATCHDOG=1");
  }

  [Symbol.dispose](): void {
    clearInterval(this.#beat);
  }

  #assemble(parts: readonly (readonly [string, OwnedFd])[]): StoredEntry[] {
    const entries = new Map<string, (OwnedFd | undefined)[]>();
    for (const [part, fd] of parts) {
      const { name, index, count } = parsePart(part);
      const fds = entries.get(name) ?? Array.from<OwnedFd | undefined>({ length: count });
      fds[index]?.close();
      fds[index] = fd;
      entries.set(name, fds);
    }
    const whole: StoredEntry[] = [];
    for (const [name, fds] of entries) {
      if (isEntryName(name) && fds.every((fd) => fd !== undefined)) whole.push({ name, fds });
      else this.#discard(name, fds);
    }
    return whole;
  }

  /** The daemon died while it stored, replaced or removed this entry. */
  #discard(name: string, fds: readonly (OwnedFd | undefined)[]): void {
    this.#log("warn", "A stored entry is not whole: it is left out", { entry: name });
    for (const fd of fds) fd?.close();
    if (isEntryName(name)) this.remove(name, fds.length);
  }

  #tell(state: string, fds: readonly number[] = []): void {
    const path = this.#environment.NOTIFY_SOCKET;
    if (path === undefined || path === "") return;
    try {
      sendDatagram(path, state, fds, SEND_TIMEOUT_MS);
    } catch (error) {
      const told = state.replaceAll("\n", " ");
      this.#log("warn", "The service manager cannot be told", { told, err: describeError(error) });
    }
  }
}

/** What is no part of an entry is one by itself, under a name that no entry has. */
function parsePart(part: string): { name: string; index: number; count: number } {
  const [, name, digits, countDigits] = PART.exec(part) ?? [];
  const [index, count] = [Number(digits), Number(countDigits)];
  const isPart = name !== undefined && index < count && count <= MAX_FDS_PER_ENTRY;
  return isPart ? { name, index, count } : { name: part, index: 0, count: 1 };
}

function partName(name: string, index: number, count: number): string {
  return count === 1 ? name : `${name}/${index}/${count}`;
}
