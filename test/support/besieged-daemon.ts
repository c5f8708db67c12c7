/** A daemon whose pagers are killed, with VMs that come, work and go all the while. */
import { setTimeout as delay } from "node:timers/promises";
import { FaultlineError } from "../../src/base/errors.ts";
import type { SessionView } from "../../src/daemon/host-service.ts";
import { waitFor } from "../../src/kit/wait.ts";
import type { DaemonProcess } from "./daemon-process.ts";
import { Random } from "./fixtures.ts";
import type { VmKind } from "./restored-vms.ts";
import type { LogLine } from "./serve-process.ts";
import { monotonicMs, type StallNotes, stallsOf } from "./stalls.ts";

const BUDGET_MS = 60_000;
/** Of requests that pagers die under. */
const MAX_TRIES = 20;
/** Later nearly every page of a VM has been given back, and little can go wrong any more. */
const MOST_DEATHS_PER_LIFE = 8;
/** Of the VMs; some are always about to come or to end. */
const NEARLY_ALL = 0.8;
/** How long pagers live when nothing is to be waited for. */
const LONGEST_LIFE_MS = 400;
/** After the death of one, how far its successor may get. */
const LONGEST_TAKEOVER_MS = 80;

/** Who is killed, as often as they are named: alone, before anybody stands by, with the standby. */
const WAYS = [
  ...["the pager", "the pager", "the pager", "the pager", "the pager", "the pager"],
  ...["whoever serves", "both", "its successor, too"],
] as const;

interface PagerDeath {
  /** By the monotonic clock. */
  readonly atMs: number;
  /** Whether the next pager stood by, and lived. */
  readonly hadStandby: boolean;
}

export class BesiegedDaemon {
  readonly deaths: PagerDeath[] = [];
  /** VMs of each kind that have ended well. */
  readonly lives = new Map<string, number>();
  readonly #daemon: DaemonProcess;
  readonly #random: Random;
  readonly #notes: StallNotes[] = [];
  readonly #killed = new Set<number>();
  #slots = 0;
  #attached = 0;
  #isOver = false;
  #failure: unknown = null;

  constructor(daemon: DaemonProcess, random: Random) {
    this.#daemon = daemon;
    this.#random = random;
  }

  /** `kills` pagers die under VMs of these kinds, all at once; every VM looks at its memory. */
  async endure(kinds: readonly VmKind[], kills: number): Promise<void> {
    this.#slots = kinds.length;
    const slots = kinds.map((kind, index) => this.#keepFull(kind, index));
    const all = Promise.all(slots.map((slot) => slot.catch((error) => this.#fail(error))));
    try {
      await this.#nearlyAllAreThere();
      while (this.deaths.length < kills && this.#failure === null) await this.#killOne();
    } catch (error) {
      this.#fail(error);
    }
    this.#isOver = true;
    await all;
    if (this.#failure !== null) throw this.#failure;
  }

  /** The longest wait of each VM at each death. */
  stalls(hadStandby: boolean): number[] {
    return this.deaths.flatMap((death, index) => {
      if (death.hadStandby !== hadStandby) return [];
      const nextMs = this.deaths[index + 1]?.atMs ?? Number.POSITIVE_INFINITY;
      return stallsOf(death.atMs, nextMs, this.#notes);
    });
  }

  /** Pagers that ended, and not by us. */
  get othersThatEnded(): readonly LogLine[] {
    const ended = this.#daemon.lines("A pager ended");
    return ended.filter(({ pid }) => !this.#killed.has(pid!));
  }

  /** One VM after the other. */
  async #keepFull(kind: VmKind, index: number): Promise<void> {
    const random = new Random(this.#random.next() + index);
    for (let life = 0; !this.#isOver; life++) {
      const { id, socketPath } = await this.#create(kind, `vm-${index}-${life}`);
      await using vm = kind.start(socketPath, random);
      if (kind.isLasting) await this.#untilAttached(id);
      this.#attached += 1;
      const fromMs = monotonicMs();
      const last = this.deaths.length + 1 + random.below(MOST_DEATHS_PER_LIFE);
      await Promise.race([vm.over, this.#died(last)]);
      const toMs = monotonicMs();
      this.#attached -= 1;
      const stalls = await vm.finish();
      // What is complete waits for nobody.
      const isNoted = stalls !== null && kind.spec.prefault !== "all";
      if (isNoted) this.#notes.push({ fromMs, toMs, stalls });
      this.lives.set(kind.name, (this.lives.get(kind.name) ?? 0) + 1);
    }
  }

  async #create(kind: VmKind, id: string): Promise<SessionView> {
    const { client } = this.#daemon;
    let tries = 0;
    return await this.#persist(async () => {
      tries += 1;
      try {
        return await client.createSession({ ...kind.spec, id });
      } catch (error) {
        // Only the answer was lost.
        if (tries > 1 && codeOf(error) === "conflict") return await client.session(id);
        throw error;
      }
    });
  }

  async #untilAttached(id: string): Promise<void> {
    const { client } = this.#daemon;
    const isAttached = async (): Promise<boolean> =>
      (await this.#persist(() => client.session(id))).vm !== null;
    await waitFor(`a VM is attached to session ${id}`, isAttached, BUDGET_MS);
  }

  /** Asks until it is answered: pagers may die faster than one of them opens an image. */
  async #persist<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
    for (let tries = 1; ; tries++) {
      try {
        return await ask();
      } catch (error) {
        if (codeOf(error) !== "no-daemon" || tries === MAX_TRIES) throw error;
      }
    }
  }

  /** So many pagers are dead, or it is over. */
  async #died(deaths: number): Promise<void> {
    while (this.deaths.length < deaths && !this.#isOver) await delay(20);
  }

  async #killOne(): Promise<void> {
    const random = this.#random;
    const daemon = this.#daemon;
    const victims = random.pick(WAYS);
    if (victims !== "whoever serves") await daemon.stoodBy();
    if (victims === "the pager") await this.#nearlyAllAreThere();
    await livesFor(random.below(LONGEST_LIFE_MS));
    const { pager, standby } = daemon;
    const isFollowed = victims === "both" || victims === "its successor, too";
    this.deaths.push({ atMs: monotonicMs(), hadStandby: standby !== null && !isFollowed });
    this.#kill(pager);
    if (standby !== null && isFollowed) {
      if (victims !== "both") await livesFor(random.below(LONGEST_TAKEOVER_MS));
      this.#kill(standby);
    }
    const isServed = (): boolean => !this.#killed.has(daemon.pager) || this.#failure !== null;
    await waitFor("another pager serves", isServed, BUDGET_MS);
  }

  async #nearlyAllAreThere(): Promise<void> {
    const isReady = (): boolean =>
      this.#attached >= this.#slots * NEARLY_ALL || this.#failure !== null;
    await waitFor("nearly all VMs are there", isReady, BUDGET_MS);
  }

  #kill(pid: number): void {
    this.#killed.add(pid);
    process.kill(pid, "SIGKILL");
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#isOver = true;
  }
}

/** Not a wait for anything: the moment of death is what is random. */
const livesFor = delay;

function codeOf(error: unknown): string | null {
  return error instanceof FaultlineError ? error.code : null;
}
