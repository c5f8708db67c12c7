/**
 * All that a VM with KVM Userfault has to tell, on its way into the planner: requests on two
 * sockets, entries of its vCPUs' rings, events of its userfaultfd.
 */
import { formatHex, SMALL_PAGE_BYTES } from "../base/units.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import type { Answers } from "../pager/answers.ts";
import type { Userfaults, UserfaultVerdict } from "../pager/userfaults.ts";
import { WaiterKind } from "../pager/waiters.ts";
import type { FaultRequest } from "../protocol/fault-messages.ts";
import type { GuestAddressMap } from "../protocol/guest-addresses.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { Demand } from "./demand.ts";
import { About, type Intake, type Rest } from "./intake.ts";
import type { RequestSocket } from "./request-socket.ts";
import type { SessionStats } from "./session-stats.ts";
import type { WorkerTools } from "./worker-tools.ts";

/** Looks at each input in a turn. A VM that floods one waits for its next turn. */
const MAX_LOOKS_PER_TURN = 16;

type RequestKind = typeof WaiterKind.request | typeof WaiterKind.asyncRequest;

export interface UserfaultIntakeParts {
  readonly survivalId: number;
  readonly uffd: Userfaultfd;
  readonly regions: RegionMap;
  readonly guestAddresses: GuestAddressMap;
  readonly faults: Userfaults;
  readonly answers: Answers;
  readonly requests: RequestSocket;
  /** Null: the VMM has none. */
  readonly asyncRequests: RequestSocket | null;
  readonly ringCount: number;
  readonly demand: Demand;
  readonly stats: SessionStats;
  readonly tools: WorkerTools;
}

export class UserfaultIntake implements Intake {
  failure = "";
  nowUs = 0;
  readonly #parts: UserfaultIntakeParts;
  /** Whether there may be something that no edge tells of any more. */
  #mayHaveEvents = true;
  #mayHaveRequests = true;
  #mayHaveAsyncRequests: boolean;

  constructor(parts: UserfaultIntakeParts) {
    this.#parts = parts;
    // Without a second socket there is nothing that could ever become empty.
    this.#mayHaveAsyncRequests = parts.asyncRequests !== null;
  }

  notify(about: number): void {
    // Rings are looked at in any case: that costs no system call.
    if (about === About.faults) this.#mayHaveEvents = true;
    else if (about === About.requests) this.#mayHaveRequests = true;
    else if (about === About.asyncRequests) this.#mayHaveAsyncRequests = true;
  }

  /** Takes what is there. True if there is more to do before the next is waited for. */
  drain(nowUs: number): boolean {
    this.nowUs = nowUs;
    const { requests, asyncRequests, faults, answers, ringCount } = this.#parts;
    if (this.#mayHaveEvents) this.#mayHaveEvents = this.#readEvents();
    if (this.#mayHaveRequests) {
      this.#mayHaveRequests = this.#receive(requests, this.#takeRequest);
    }
    if (this.#mayHaveAsyncRequests && asyncRequests !== null) {
      this.#mayHaveAsyncRequests = this.#receive(asyncRequests, this.#takeAsyncRequest);
    }
    for (let vcpu = 0; vcpu < ringCount; vcpu++) this.#drainRing(vcpu);
    const hasMore = this.#mayHaveEvents || this.#mayHaveRequests || this.#mayHaveAsyncRequests;
    if (!hasMore) faults.endRepeats();
    // What was there already needs its answer only.
    answers.flush();
    return hasMore;
  }

  /** Nobody looks at the rings from now on: KVM is asked to tell of the next fault. */
  rest(): Rest {
    const { faults, answers } = this.#parts;
    if (!faults.arm()) return "again";
    return answers.flush() ? "idle" : "later";
  }

  #readEvents(): boolean {
    const { tools, uffd, survivalId } = this.#parts;
    const { batch, survivor } = tools;
    for (let look = 0; look < MAX_LOOKS_PER_TURN; look++) {
      // Under our own label: none of them removes anything from a guest_memfd.
      survivor?.begin(survivalId);
      const count = uffd.drain(batch);
      for (let index = 0; index < count; index++) {
        if (batch.eventCode(index) !== abi.UFFD_EVENT_PAGEFAULT) continue;
        this.#takeEvent(batch.faultAddress(index));
      }
      if (count < batch.capacity) return false;
    }
    return true;
  }

  #takeEvent(address: number): void {
    const { regions, faults } = this.#parts;
    const region = regions.regionAt(address);
    const page = region < 0 ? -1 : regions.pageAt(region, address);
    const verdict = page < 0 ? "outside" : faults.event(page);
    this.#follow(verdict, page, "The VMM", address);
  }

  #receive(socket: RequestSocket, onRequest: (request: FaultRequest) => void): boolean {
    for (let look = 0; look < MAX_LOOKS_PER_TURN; look++) {
      const found = socket.receive(onRequest);
      this.#parts.stats.addBadFrames(socket.takeBadFrames());
      // An end: the VMM is dying, which its pidfd tells; or it has nothing more to ask for here.
      if (found !== "more") return false;
    }
    return true;
  }

  readonly #takeRequest = (request: FaultRequest): void => {
    this.#parts.stats.addVcpuRequest();
    this.#take(WaiterKind.request, request);
  };

  readonly #takeAsyncRequest = (request: FaultRequest): void => {
    this.#parts.stats.addAsyncRequest();
    this.#take(WaiterKind.asyncRequest, request);
  };

  #take(kind: RequestKind, { vcpu, offset, flags, gpa }: FaultRequest): void {
    const { faults, guestAddresses, regions } = this.#parts;
    let page = gpa === null ? Math.floor(offset / SMALL_PAGE_BYTES) : guestAddresses.pageAt(gpa);
    if (gpa === null && (page >= regions.pageLimit || regions.regionOfPage(page) < 0)) page = -1;
    const verdict = faults.request(kind, vcpu, flags, gpa, page, offset);
    this.#follow(verdict, page, `vCPU ${vcpu}`, gpa ?? offset);
  }

  #drainRing(vcpu: number): void {
    const { faults, stats } = this.#parts;
    const count = faults.drainRing(vcpu, (gpa, page, verdict) => {
      stats.addRingFault();
      this.#follow(verdict, page, `vCPU ${vcpu}`, gpa);
    });
    if (count < 0) this.failure = `The ring of vCPU ${vcpu} tells of more faults than it holds.`;
  }

  #follow(verdict: UserfaultVerdict, page: number, who: string, address: number): void {
    const { stats, demand } = this.#parts;
    stats.addFault();
    if (verdict === "first") {
      demand.note(page, this.nowUs);
    } else if (verdict === "present") {
      stats.addAlreadyPresent();
    } else if (verdict === "outside") {
      this.failure =
        `${who} asked for ${formatHex(address)}, which lies in none of the regions that the ` +
        "handshake announced.";
    } else if (verdict === "tooMany") {
      this.failure = `${who} asked for ${formatHex(address)} while more wait than a VM can have.`;
    }
  }
}
