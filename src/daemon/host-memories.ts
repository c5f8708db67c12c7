/**
 * The memories that sessions are restored from: each opened once for all its sessions, with what
 * is known of its restores, and kept for a while when nobody uses it any more.
 */
import type { Engine } from "../engine/engine.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { Keeper } from "./keeper.ts";
import type { Logger } from "./log.ts";
import type { KeptMemory, MemoryHost } from "./memory-host.ts";
import { RestoreWatch } from "./restore-watch.ts";
import type { ServedMemory } from "./served-memory.ts";
import type { WorkingSetKeeper } from "./working-set-keeper.ts";

export interface HostMemoriesOptions {
  readonly host: MemoryHost;
  readonly engine: Engine;
  readonly keeper: Keeper;
  readonly collapse: boolean;
  readonly log: Logger;
}

interface Place {
  readonly key: string;
  readonly memory: string;
  readonly layers: readonly string[];
  readonly entry: string;
}

/** How long memory that nobody uses stays open: the next VM of an image often comes soon. */
const LINGER_MS = 60_000;
/**
 * A name may come to mean another image. So long after it was looked up it is taken to mean the
 * same: a request to the store costs milliseconds that a session's creation has not.
 */
const FRESH_MS = 5000;
/** Memories that linger; the one that was used longest ago goes. */
const MAX_LINGERING = 64;

export class HostMemory {
  readonly memory: string;
  readonly layers: readonly string[];
  readonly served: ServedMemory;
  /** The entry under which it is kept for the next pager. */
  readonly entry: string;
  restores: RestoreWatch;
  learning: WorkingSetKeeper | null;
  users = 0;
  lookedUpMs = performance.now();
  idleTimer: NodeJS.Timeout | null = null;
  readonly #options: HostMemoriesOptions;

  constructor(
    options: HostMemoriesOptions,
    place: Place,
    served: ServedMemory,
    learning: WorkingSetKeeper | null,
  ) {
    this.#options = options;
    this.memory = place.memory;
    this.layers = place.layers;
    this.entry = place.entry;
    this.served = served;
    this.learning = learning;
    this.restores = this.#watchWith(learning);
  }

  /** VMs that come from now on are learnt from, and restored by what is known. */
  learnWith(learning: WorkingSetKeeper): void {
    this.learning = learning;
    this.restores = this.#watchWith(learning);
  }

  #watchWith(keeper: WorkingSetKeeper | null): RestoreWatch {
    const { engine, collapse, log } = this.#options;
    return new RestoreWatch({ keeper, collapse, engine, log });
  }
}

export class HostMemories {
  readonly #options: HostMemoriesOptions;
  /** The newest of each key. */
  readonly #byKey = new Map<string, HostMemory>();
  /** All that are open, replaced ones with sessions included. */
  readonly #open = new Set<HostMemory>();
  readonly #opening = new Map<string, Promise<HostMemory>>();
  #isArenaKept = false;
  /** By memories that were closed since. */
  #leftOutBefore = 0;
  #nextEntry = 1;

  constructor(options: HostMemoriesOptions) {
    this.#options = options;
  }

  get all(): readonly HostMemory[] {
    return [...this.#open];
  }

  /** Restores that nothing was learnt from, as too many ended at once; never less than before. */
  get leftOutRecordings(): number {
    let count = this.#leftOutBefore;
    for (const { learning } of this.#open) count += learning?.leftOut ?? 0;
    return count;
  }

  /** Give it back with `release`. */
  async use(memory: string, layers: readonly string[]): Promise<HostMemory> {
    const key = JSON.stringify([memory, ...layers]);
    const found = await (this.#opening.get(key) ?? this.#lookUp(key, memory, layers));
    this.take(found);
    return found;
  }

  /** One more session uses it. */
  take(memory: HostMemory): void {
    memory.users += 1;
    if (memory.idleTimer !== null) clearTimeout(memory.idleTimer);
    memory.idleTimer = null;
  }

  /**
   * What an earlier pager has kept, for its sessions: each takes it, and releases it. Nothing is
   * learnt from these: what is known of their restores lies in a store, and VMs wait.
   */
  async recover(entry: string, kept: KeptMemory, memory: string): Promise<HostMemory> {
    const served = await this.#options.host.reopen(kept);
    const number = Number(/^image\.(\d+)$/.exec(entry)?.[1] ?? 0);
    this.#nextEntry = Math.max(this.#nextEntry, number + 1);
    const place = { key: `recovered ${entry}`, memory, layers: [], entry };
    return this.#add(place, served, null);
  }

  /** As many times as it was taken. */
  release(memory: HostMemory): void {
    memory.users -= 1;
    if (memory.users > 0) return;
    if (![...this.#byKey.values()].includes(memory)) {
      void this.#close(memory);
      return;
    }
    memory.idleTimer = setTimeout(() => void this.#close(memory), LINGER_MS).unref();
    this.#boundLingering();
  }

  /** Keeps the arena for the next pager, as soon as there is one. */
  keepArena(arena: OwnedFd | null = this.#options.host.arenaFd): void {
    if (arena === null || this.#isArenaKept) return;
    this.#options.keeper.keep("arena", [arena.fd]);
    this.#isArenaKept = true;
  }

  async close(): Promise<void> {
    for (const memory of this.#open) {
      if (memory.idleTimer !== null) clearTimeout(memory.idleTimer);
      await memory.learning?.close();
      await memory.served.close();
    }
    this.#open.clear();
  }

  /** One look-up for all that ask for the same at the same time. */
  #lookUp(key: string, memory: string, layers: readonly string[]): Promise<HostMemory> {
    const known = this.#byKey.get(key);
    if (known !== undefined && performance.now() - known.lookedUpMs < FRESH_MS) {
      return Promise.resolve(known);
    }
    const opening = this.#openAnew(key, memory, layers).finally(() => this.#opening.delete(key));
    this.#opening.set(key, opening);
    return opening;
  }

  async #openAnew(key: string, memory: string, layers: readonly string[]): Promise<HostMemory> {
    const known = this.#byKey.get(key);
    const served = await this.#options.host.open({ memory, layers });
    const same = [...this.#open].find(({ served: { mapped } }) => mapped === served.mapped);
    if (same !== undefined) {
      // Nothing has changed, or an earlier pager has had it: it is open once too often.
      this.take(same);
      await served.close();
      await this.#learnOf(same);
      this.#byKey.set(key, same);
      same.lookedUpMs = performance.now();
      this.release(same);
      return same;
    }
    const entry = `image.${this.#nextEntry++}`;
    const learning = await openLearning(served, this.#options.log);
    const opened = this.#add({ key, memory, layers, entry }, served, learning);
    if (known !== undefined && known.users === 0) void this.#close(known);
    return opened;
  }

  #add(place: Place, served: ServedMemory, learning: WorkingSetKeeper | null): HostMemory {
    const { keeper, host } = this.#options;
    const memory = new HostMemory(this.#options, place, served, learning);
    try {
      keeper.keep(place.entry, host.keep(served).fds);
    } catch (error) {
      void served.close();
      void learning?.close();
      throw error;
    }
    this.#open.add(memory);
    this.#byKey.set(place.key, memory);
    this.keepArena();
    return memory;
  }

  /** One that was recovered had no time for that. */
  async #learnOf(memory: HostMemory): Promise<void> {
    if (memory.learning !== null) return;
    const learning = await openLearning(memory.served, this.#options.log);
    if (learning !== null) memory.learnWith(learning);
  }

  async #close(memory: HostMemory): Promise<void> {
    if (memory.users > 0 || !this.#open.delete(memory)) return;
    this.#leftOutBefore += memory.learning?.leftOut ?? 0;
    if (memory.idleTimer !== null) clearTimeout(memory.idleTimer);
    for (const [key, known] of this.#byKey) if (known === memory) this.#byKey.delete(key);
    this.#options.keeper.drop(memory.entry);
    await memory.learning?.close();
    await memory.served.close();
  }

  #boundLingering(): void {
    const idle = [...this.#open].filter(({ users }) => users === 0);
    if (idle.length <= MAX_LINGERING) return;
    void this.#close(idle.reduce((a, b) => (a.lookedUpMs < b.lookedUpMs ? a : b)));
  }
}

async function openLearning(served: ServedMemory, log: Logger): Promise<WorkingSetKeeper | null> {
  const { workingSet: place } = served;
  if (place === null) return null;
  const { WorkingSetKeeper } = await import("./working-set-keeper.ts");
  return await WorkingSetKeeper.open({ place, log });
}
