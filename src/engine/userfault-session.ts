/**
 * What a session needs to serve a VM with KVM Userfault, put together: how pages come into its
 * memory (`GuestMemfd`), how its faults come in (`UserfaultIntake`), what its worker has to watch.
 */
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { UserfaultBitmap } from "../base/userfault-bitmap.ts";
import { OwnedFd } from "../linux/fd.ts";
import { viewOf } from "../linux/memory.ts";
import { Answers } from "../pager/answers.ts";
import { APF_PAGE_BYTES, ApfRing } from "../pager/apf-ring.ts";
import type { Planner } from "../pager/planner.ts";
import { Population } from "../pager/population.ts";
import { Userfaults } from "../pager/userfaults.ts";
import { MAX_WAITERS } from "../pager/waiters.ts";
import { GuestAddressMap } from "../protocol/guest-addresses.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { Demand } from "./demand.ts";
import { GuestMemfdFile } from "./guest-file.ts";
import { GuestMemfd, GuestWires } from "./guest-memfd.ts";
import { About } from "./intake.ts";
import { recoverUserfaultTable } from "./recover-userfault.ts";
import { RequestSocket } from "./request-socket.ts";
import type { SessionMemory } from "./session-memory.ts";
import type { SessionStats } from "./session-stats.ts";
import { UserfaultIntake } from "./userfault-intake.ts";
import type { UserfaultSetup } from "./wire.ts";
import type { WorkerTools } from "./worker-tools.ts";

/** What any session has. */
export interface SessionCommon {
  readonly survivalId: number;
  readonly uffd: Userfaultfd;
  readonly regions: RegionMap;
  readonly planner: Planner;
  readonly stats: SessionStats;
  readonly demand: Demand;
  readonly tools: WorkerTools;
}

interface UserfaultSessionParts extends SessionCommon {
  readonly setup: UserfaultSetup;
  /** The first socket. */
  readonly socket: OwnedFd;
  readonly memory: SessionMemory;
}

/** A descriptor whose edges the worker watches. */
export interface WatchedFd {
  readonly fd: number;
  readonly about: About;
}

/** Null for a VM without it. */
export function openUserfault(
  setup: UserfaultSetup | null,
  socket: OwnedFd | null,
  memory: SessionMemory,
  common: SessionCommon,
): UserfaultSession | null {
  if (setup === null) return null;
  assert(socket !== null, "a VM with KVM Userfault asks by its first socket");
  return new UserfaultSession({ ...common, setup, socket, memory });
}

export class UserfaultSession {
  readonly pages: GuestMemfd;
  readonly intake: UserfaultIntake;
  readonly watched: readonly WatchedFd[];
  readonly #parts: UserfaultSessionParts;
  readonly #owned: readonly OwnedFd[];
  readonly #bitmap: UserfaultBitmap;
  readonly #faults: Userfaults;
  readonly #answers: Answers;

  constructor(parts: UserfaultSessionParts) {
    this.#parts = parts;
    const { setup, uffd, regions, planner, tools, memory } = parts;
    const [table, waiters] = [memory.pageTable, memory.waiters()];
    const { buffers } = tools;
    const guestAddresses = new GuestAddressMap(setup.guestAddresses, regions.pageSizeBytes);
    const guestMemfd = new OwnedFd(setup.guestMemfd);
    const requests = new RequestSocket(parts.socket);
    const asyncSocket = setup.asyncSocket === null ? null : new OwnedFd(setup.asyncSocket);
    const asyncRequests = asyncSocket === null ? null : new RequestSocket(asyncSocket);
    const rings = setup.rings.map(
      ({ pageAddress }) => new ApfRing(viewOf(pageAddress, APF_PAGE_BYTES)),
    );
    const completeFds = setup.rings.map(({ complete }) => complete);
    const notifyFds = setup.rings.map(({ notify }) => notify);
    const bitmap = new UserfaultBitmap(viewOf(setup.bitmapAddress, setup.bitmapBytes));
    const pageAt = (gpa: number): number => guestAddresses.pageAt(gpa);
    const faults = new Userfaults({ planner, table, bitmap, waiters, rings, pageAt });
    const wires = new GuestWires({
      ...{ uffd, regions, buffers, requests, asyncRequests, completeFds },
    });
    const answers = new Answers(waiters, table, rings, wires);
    const population = new Population(new GuestMemfdFile(guestMemfd.fd), bitmap);
    this.pages = new GuestMemfd({ population, answers, regions, buffers });
    this.intake = new UserfaultIntake({
      ...{ survivalId: parts.survivalId, uffd, regions, guestAddresses, faults, answers },
      ...{ requests, asyncRequests, ringCount: rings.length, demand: parts.demand },
      ...{ stats: parts.stats, tools },
    });
    this.#bitmap = bitmap;
    this.#faults = faults;
    this.#answers = answers;
    this.#owned = [
      guestMemfd,
      ...(asyncSocket === null ? [] : [asyncSocket]),
      ...[...completeFds, ...notifyFds].map((fd) => new OwnedFd(fd)),
    ];
    this.watched = [
      { fd: requests.fd, about: About.requests },
      ...(asyncSocket === null ? [] : [{ fd: asyncSocket.fd, about: About.asyncRequests }]),
      ...notifyFds.map((fd) => ({ fd, about: About.ring })),
    ];
  }

  /**
   * Before its first turn.
   * @throws FaultlineError `handshake`: the bitmap makes no sense
   */
  begin(isTakeover: boolean): void {
    const { regions, memory, setup } = this.#parts;
    if (isTakeover) {
      recoverUserfaultTable(memory.pageTable, this.#bitmap, regions, setup.guestMemfd);
      this.#faults.resume();
      this.#answers.signalAll();
    }
    for (let region = 0; region < regions.regions.length; region++) {
      const [first, end] = [regions.firstPageOf(region), regions.endPageOf(region)];
      if (this.#faults.claimClearPages(first, end) >= 0) continue;
      throw new FaultlineError(
        "handshake",
        `The VMM's bitmap lets vCPUs at more than ${MAX_WAITERS} pages that nobody has ` +
          "installed. It has to set all bits before it sends its second message.",
      );
    }
  }

  close(): void {
    for (const fd of this.#owned) fd.close();
  }
}
