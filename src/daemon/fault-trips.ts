/**
 * What the kernel takes to tell us of a fault and to let its thread go on, on this host: time that
 * guests wait for and that no fault worker sees. Measured once, on memory of our own, so that
 * restore reports can say how much of a restore it was.
 *
 * A thread of ours touches missing pages and then the same pages again; what the first takes longer
 * and the fault worker has not counted was spent on the way.
 */
import { describeError, FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Engine } from "../engine/engine.ts";
import type { Session } from "../engine/session.ts";
import { MAX_SURVIVAL_ID } from "../engine/surviving-batches.ts";
import { monotonicUs } from "../linux/clock.ts";
import { MappedRegion } from "../linux/memory.ts";
import { openPidfd } from "../linux/process.ts";
import { getpagesize, touchInBackground } from "../linux/sys.ts";
import { flattenLayers } from "../snapshot/layers.ts";
import { RegionMap } from "../snapshot/regions.ts";
import { withDeadline } from "../source/deadline.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { Logger } from "./log.ts";

/** Microseconds of one fault, besides what its worker does. */
export interface FaultTrips {
  /** The worker slept, and had to be woken. */
  readonly asleepUs: number;
  /** One fault came after the other. */
  readonly busyUs: number;
}

/** Where a process may not create a userfaultfd, or its fault worker is late, nothing is known. */
export const unknownTrips: FaultTrips = { asleepUs: 0, busyUs: 0 };

const SINGLE_TOUCHES = 9;
/** So many until a worker spins, if it ever does. */
const WARM_UP_PAGES = 32;
/** Where the scheduler puts the two threads makes a difference: several batches. */
const BUSY_BATCHES = 7;
const BUSY_PAGES = 24;
const PAGES = SINGLE_TOUCHES + WARM_UP_PAGES + BUSY_BATCHES * BUSY_PAGES;
const DEADLINE_MS = 5000;

export interface TripOptions {
  readonly log: Pick<Logger, "debug">;
  readonly deadlineMs?: number;
}

/** Takes a few milliseconds. Whatever goes wrong, it is an estimate: nobody's start fails of it. */
export async function measureTrips(
  engine: Pick<Engine, "attach" | "detach">,
  { log, deadlineMs = DEADLINE_MS }: TripOptions,
): Promise<FaultTrips> {
  const pageBytes = Math.max(SMALL_PAGE_BYTES, getpagesize());
  const memory = MappedRegion.anonymous(PAGES * pageBytes);
  const unknown = (error: unknown): FaultTrips => {
    log.debug({ reason: describeError(error) }, "It is not known what the kernel takes for faults");
    return unknownTrips;
  };
  let session: Session;
  try {
    session = attach(engine, memory, pageBytes);
  } catch (error) {
    memory.unmap();
    if (error instanceof FaultlineError) return unknown(error);
    throw error;
  }
  const measure = async (): Promise<FaultTrips> => {
    try {
      return await touchAll(session, memory.address, pageBytes);
    } finally {
      engine.detach(session);
      await session.ended;
      // The last touch is over, however late it was: one more would hit what is no memory.
      memory.unmap();
    }
  };
  try {
    return await withDeadline(measure(), deadlineMs, "The fault worker did not answer all faults");
  } catch (error) {
    // Nobody else has this userfaultfd: once it is closed, who waits for a page goes on.
    engine.detach(session);
    return unknown(error);
  }
}

/** @throws FaultlineError this process may not create a userfaultfd, or register its memory */
function attach(
  engine: Pick<Engine, "attach">,
  { address: baseHostAddress, sizeBytes }: MappedRegion,
  pageBytes: number,
): Session {
  const options = { via: "syscall", userModeOnly: true, features: ["eventRemove"] } as const;
  const uffd = Userfaultfd.create(options);
  try {
    uffd.register(baseHostAddress, sizeBytes, ["missing"]);
    return engine.attach({
      ...{ pid: process.pid, userfaultfd: uffd, pidfd: openPidfd(process.pid), socket: null },
      regions: new RegionMap([{ baseHostAddress, sizeBytes, imageOffset: 0 } as never], pageBytes),
      image: {
        runs: flattenLayers(sizeBytes, []),
        ...{ fds: [], addresses: [], residency: [], firstParts: [] },
      },
      onError: "kill",
      survivalId: MAX_SURVIVAL_ID - 1,
      // Each page is to be a fault of its own.
      streams: false,
    });
  } catch (error) {
    uffd.close();
    throw error;
  }
}

async function touchAll(session: Session, address: number, pageBytes: number): Promise<FaultTrips> {
  const singles: number[] = [];
  for (let page = 0; page < SINGLE_TOUCHES; page++) {
    singles.push(await tripUs(session, address + page * pageBytes, 1, 1));
  }
  const warmUp = address + SINGLE_TOUCHES * pageBytes;
  await touchInBackground(warmUp, WARM_UP_PAGES * pageBytes);
  const batches: number[] = [];
  for (let batch = 0; batch < BUSY_BATCHES; batch++) {
    const first = warmUp + (WARM_UP_PAGES + batch * BUSY_PAGES) * pageBytes;
    batches.push(await tripUs(session, first, BUSY_PAGES * pageBytes, BUSY_PAGES));
  }
  const asleepUs = middle(singles);
  return { asleepUs, busyUs: Math.min(middle(batches), asleepUs) };
}

function middle(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

/** Of each of so many faults. */
async function tripUs(
  { stats }: Session,
  address: number,
  lengthBytes: number,
  faults: number,
): Promise<number> {
  const countedBeforeUs = stats.totalUs("fault");
  const missingUs = await touchUs(address, lengthBytes);
  const countedUs = stats.totalUs("fault") - countedBeforeUs;
  const presentUs = await touchUs(address, lengthBytes);
  return Math.max(0, (missingUs - presentUs - countedUs) / faults);
}

async function touchUs(address: number, lengthBytes: number): Promise<number> {
  const beganUs = monotonicUs();
  await touchInBackground(address, lengthBytes);
  return monotonicUs() - beganUs;
}
