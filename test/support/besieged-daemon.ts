/** A daemon whose pagers are killed, with VMs that come, work and go all the while. */
import { setTimeout as delay } from "node:timers/promises";
import { waitFor } from "../../src/kit/wait.ts";
import type { DaemonProcess } from "./daemon-process.ts";
import { Random } from "./fixtures.ts";
import type { VmKind } from "./restored-vms.ts";
import { monotonicMs, type StallNotes, stallsOf } from "./stalls.ts";

const BUDGET_MS = 60_000;
/** Later nearly every page of a VM has been given back, and little can go wrong any more. */
const MOST_DEATHS_PER_LIFE = 4;
/** How long pagers live when nothing is to be waited for. */
const LONGEST_LIFE_MS = 400;
/** After the death of one, how far its successor may get. */
const LONGEST_TAKEOVER_MS = 80;

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
  #attached = 0;
  #isOver = false;
  #failure: unknown = null;

  constructor(daemon: DaemonProcess, random: Random) {
    this.#daemon = daemon;
    this.#random = random;
  }

  /** `kills` pagers die under VMs of these kinds, all at once; every VM looks at its memory. */
  async endure(kinds: readonly VmKind[], kills: number): Promise<void> {
    const slots = kinds.map((kind, index) => this.#keepFull(kind, index));
    const all = Promise.all(slots.map((slot) => slot.catch((error) => this.#fail(error))));
    try {
      const isReady = (): boolean => this.#attached >= kinds.length || this.#failure !== null;
      await waitFor("all VMs are there", isReady, BUDGET_MS);
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

  worst(death: PagerDeath): number[] {
    const index = this.deaths.indexOf(death);
    const nextMs = this.deaths[index + 1]?.atMs ?? Number.POSITIVE_INFINITY;
    return stallsOf(death.atMs, nextMs, this.#notes).map(Math.round);
  }

  /** One VM after the other. */
  async #keepFull(kind: VmKind, index: number): Promise<void> {
    const random = new Random(this.#random.next() + index);
    const { client } = this.#daemon;
    for (let life = 0; !this.#isOver; life++) {
      const { id, socketPath } = await client.createSession(kind.spec);
      await using vm = kind.start(socketPath, random);
      await this.#daemon.attached(id);
      this.#attached += 1;
      const fromMs = monotonicMs();
      const last = this.deaths.length + 1 + random.below(MOST_DEATHS_PER_LIFE);
      await Promise.race([vm.over, this.#died(last)]);
      const toMs = monotonicMs();
      const stalls = await vm.finish();
      if (stalls !== null) this.#notes.push({ fromMs, toMs, stalls });
      this.lives.set(kind.name, (this.lives.get(kind.name) ?? 0) + 1);
    }
  }

  /** So many pagers are dead, or it is over. */
  async #died(deaths: number): Promise<void> {
    while (this.deaths.length < deaths && !this.#isOver) await delay(20);
  }

  async #killOne(): Promise<void> {
    const random = this.#random;
    const daemon = this.#daemon;
    // What is random is the moment of death; nothing is waited for here.
    const livesFor = (mostMs: number): Promise<void> => delay(random.below(mostMs));
    const way = random.below(20);
    if (way >= 3) await daemon.stoodBy();
    await livesFor(LONGEST_LIFE_MS);
    const { pager, standby } = daemon;
    const isLone = standby === null;
    this.deaths.push({ atMs: monotonicMs(), hadStandby: !isLone && way >= 7 });
    this.#kill(pager);
    if (!isLone && way < 7) {
      // At the same moment, or in the middle of its work.
      if (way >= 5) await livesFor(LONGEST_TAKEOVER_MS);
      this.#kill(standby);
    }
    const isServed = (): boolean => !this.#killed.has(daemon.pager) || this.#failure !== null;
    await waitFor("another pager serves", isServed, BUDGET_MS);
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
