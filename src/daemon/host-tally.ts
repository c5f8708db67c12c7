/**
 * What a daemon has counted since it was started, in memory that outlives its pagers: the numbers
 * of VMs that have ended, and how they did. What live VMs have counted lies in their own memory
 * (`SessionMemory`); both together never go down, whoever dies.
 *
 * A pager that is killed between counting an end and forgetting its session has the next one count
 * that end again: better than a sum that goes down, which readers take for a restart.
 */
import { fstatSync, ftruncateSync } from "node:fs";
import { KIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { RestoreAccount } from "../engine/restore-account.ts";
import { SessionStats } from "../engine/session-stats.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd, MappedRegion } from "../linux/memory.ts";
import type { PrefaultVerdict } from "../pager/prefault-verdict.ts";
import { waitCauses } from "../report/restore-report.ts";
import type { SessionEndView } from "./host-service.ts";
import type { Keeper } from "./keeper.ts";

/** In the order of their places in memory, where the next version looks: add at the end. */
export const tallyNames = [
  /** Sessions that were created, and those that were not because there were too many. */
  "created",
  "refusedSessions",
  /** VMs that were attached, by whichever pager. */
  "attached",
  "refusedHandshakes",
  /** VMs that a new pager went on with, and those that it could not. */
  "takenOver",
  "lost",
  "ended.exited",
  "ended.gone",
  "ended.complete",
  "ended.detached",
  "ended.killed",
  "ended.cancelled",
  "ended.expired",
  "ended.failed",
  /** Pages of working sets, of VMs that have ended. */
  "verdict.used",
  "verdict.wasted",
  "verdict.late",
  "verdict.unplanned",
  /** How installing ahead ended. */
  "prefault.done",
  "prefault.stopped",
  "prefault.cancelled",
  "prefault.kept",
  /** Of VMs that have ended, whose pages are of different sizes. */
  "bytes.installed",
  "bytes.zero",
  "bytes.removed",
  "bytes.prefaulted",
  "bytes.streamed",
  /** Microseconds that VMs have waited, by what for, of those that have ended. */
  "waited.handshake",
  "waited.queue",
  "waited.lookup",
  "waited.install",
  "waited.deferred",
  "waited.memory",
  "waited.ahead",
  "waited.handover",
  "waited.room",
  "waited.store",
  "waited.near",
  "waited.disk",
  "waited.decode",
  "waited.again",
  "waited.lost",
  "waited.takeover",
] as const;
export type TallyName = (typeof tallyNames)[number];

/** Counters of pages that are told in bytes, too. */
export const byteCounters = {
  "bytes.installed": "installedPages",
  "bytes.zero": "zeroPages",
  "bytes.removed": "removedPages",
  "bytes.prefaulted": "prefaultedPages",
  "bytes.streamed": "streamedPages",
} as const;
export type ByteCounter = keyof typeof byteCounters;

/** What is counted of one VM. */
export interface CountedVm {
  readonly stats: SessionStats;
  readonly account: Pick<RestoreAccount, "causes">;
  readonly pageSizeBytes: number;
}

export const TALLY_ENTRY = "tally";
/** The counters have the first page; behind it there is room for those of later `SessionStats`. */
const SIZE_BYTES = SMALL_PAGE_BYTES + 32 * KIB;
/** The first place says that this is a tally. */
const MAGIC = 0x464c_544c;

const places = new Map(tallyNames.map((name, index) => [name, index + 1]));

export class HostTally {
  /** Of VMs that have ended, all together. */
  readonly ended: SessionStats;
  readonly #mapping: MappedRegion;
  readonly #counters: Float64Array;

  private constructor(mapping: MappedRegion) {
    this.#mapping = mapping;
    // SAFETY: mapped for as long as this object is used.
    this.#counters = new Float64Array(mapping.view(), 0, SMALL_PAGE_BYTES / 8);
    this.ended = new SessionStats(mapping.view(), SMALL_PAGE_BYTES);
  }

  /** Counts on where the last pager has stopped. `kept`: what it left; closed here. */
  static open(keeper: Keeper, kept: OwnedFd | null): HostTally {
    const adopted = kept === null ? null : HostTally.adopt(kept);
    kept?.close();
    if (adopted !== null) return adopted;
    const { tally, fd } = HostTally.create();
    keeper.keep(TALLY_ENTRY, [fd.fd]);
    fd.close();
    return tally;
  }

  /** All at zero. The descriptor is the caller's. */
  static create(): { tally: HostTally; fd: OwnedFd } {
    const fd = createMemfd("faultline-tally");
    try {
      ftruncateSync(fd.fd, SIZE_BYTES);
      const tally = new HostTally(MappedRegion.shared(fd.fd, SIZE_BYTES));
      tally.#counters[0] = MAGIC;
      return { tally, fd };
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** What an earlier pager has counted; null: it is something else. The descriptor stays. */
  static adopt(fd: OwnedFd): HostTally | null {
    if (fstatSync(fd.fd).size !== SIZE_BYTES) return null;
    const tally = new HostTally(MappedRegion.shared(fd.fd, SIZE_BYTES));
    if (tally.#counters[0] === MAGIC) return tally;
    tally.#mapping.unmap();
    return null;
  }

  get(name: TallyName): number {
    return this.#counters[places.get(name)!]!;
  }

  add(name: TallyName, count = 1): void {
    this.#counters[places.get(name)!]! += count;
  }

  /** `vm` null: none has ever come. */
  addEnd(reason: SessionEndView["reason"], vm: CountedVm | null): void {
    this.add(`ended.${reason}`);
    if (vm === null) return;
    this.ended.add(vm.stats);
    const causes = vm.account.causes();
    for (const cause of waitCauses) this.add(`waited.${cause}`, causes[cause]);
    const counters = vm.stats.counters();
    for (const [name, counter] of Object.entries(byteCounters)) {
      this.add(name as ByteCounter, counters[counter] * vm.pageSizeBytes);
    }
  }

  addVerdict({ usedPages, wastedPages, latePages, unplannedPages }: PrefaultVerdict): void {
    this.add("verdict.used", usedPages ?? 0);
    this.add("verdict.wasted", wastedPages ?? 0);
    this.add("verdict.late", latePages);
    this.add("verdict.unplanned", unplannedPages);
  }
}
