/**
 * Parts of handlers that are wrong on purpose, each in the one way that its name says. What they
 * are for: mutants.ts. PURE.
 */
import type { Outcome } from "../../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import type { UserfaultBitmap } from "../../base/userfault-bitmap.ts";
import { Answers } from "../../pager/answers.ts";
import { PageState } from "../../pager/page-table.ts";
import { type GuestFile, Population, type WriteRefusal } from "../../pager/population.ts";
import { Userfaults } from "../../pager/userfaults.ts";
import { WaiterKind, type Waiters } from "../../pager/waiters.ts";
import { VirtualGuestPages, VirtualWires } from "./guest-pages.ts";
import { recoverUserfaultTable, type Takeover } from "./handler.ts";
import type { SocketKind } from "./kernel.ts";
import { SeamRing, type Seams } from "./seams.ts";
import { UserfaultSession } from "./session.ts";
import type { VirtualRequest, VirtualStream } from "./stream.ts";

const FLAGS_WORD = 3;
const NOTIFY_ARMED = 1;

// How pages come into the memory.

export class ClearsBeforeItWrites extends Population {
  readonly #bitmap: UserfaultBitmap;

  constructor(file: GuestFile, bitmap: UserfaultBitmap) {
    super(file, bitmap);
    this.#bitmap = bitmap;
  }

  override install(firstPage: number, sourceAddress: number, lengthBytes: number): Outcome {
    this.#bitmap.clear(firstPage, firstPage + lengthBytes / SMALL_PAGE_BYTES);
    return super.install(firstPage, sourceAddress, lengthBytes);
  }
}

/** Notes which pages were there already. */
class PresentPages implements GuestFile {
  readonly pages = new Set<number>();
  readonly #file: GuestFile;

  constructor(file: GuestFile) {
    this.#file = file;
  }

  write(sourceAddress: number, lengthBytes: number, offset: number): number | WriteRefusal {
    const result = this.#file.write(sourceAddress, lengthBytes, offset);
    if (result === "present") this.pages.add(offset / SMALL_PAGE_BYTES);
    return result;
  }
}

export function leavesBitsOfPresentPages(file: GuestFile, bitmap: UserfaultBitmap): Population {
  const present = new PresentPages(file);
  const clear = (first: number, end: number): number => {
    let count = 0;
    for (let page = first; page < end; page++) {
      if (!present.pages.has(page)) count += bitmap.clear(page, page + 1);
    }
    return count;
  };
  return new Population(present, Object.assign(Object.create(bitmap), { clear }));
}

export class TakesHalfAPageForAll implements GuestFile {
  readonly #file: GuestFile;

  constructor(file: GuestFile) {
    this.#file = file;
  }

  write(...args: Parameters<GuestFile["write"]>): number | WriteRefusal {
    const result = this.#file.write(...args);
    if (typeof result === "string") return result;
    return Math.ceil(result / SMALL_PAGE_BYTES) * SMALL_PAGE_BYTES;
  }
}

export class GivesUpAtPresentPages implements GuestFile {
  readonly #file: GuestFile;

  constructor(file: GuestFile) {
    this.#file = file;
  }

  write(...args: Parameters<GuestFile["write"]>): number | WriteRefusal {
    const result = this.#file.write(...args);
    return result === "present" ? "outOfMemory" : result;
  }
}

export class AnswersBeforeItInstalls extends VirtualGuestPages {
  override copy(target: number, bodies: readonly number[], wakes = true): Outcome {
    const page = this.pageAt(target);
    if (wakes) this.options.answers.announce(page, page + bodies.length);
    return super.copy(target, bodies, wakes);
  }
}

export class AnswersForMoreThanItWrote extends VirtualGuestPages {
  override copy(target: number, bodies: readonly number[], wakes = true): Outcome {
    const outcome = super.copy(target, bodies, wakes);
    const page = this.pageAt(target);
    if (wakes) this.options.answers.announce(page, page + bodies.length);
    return outcome;
  }
}

export class AnswersForPagesInBetween extends VirtualGuestPages {
  protected override wakePages(first: number, end: number): void {
    this.options.answers.announce(first, end);
  }
}

export class TakesAllRegionsForOne extends VirtualGuestPages {
  override wake(start: number, lengthBytes: number): void {
    const page = this.pageAt(start);
    this.wakePages(page, page + lengthBytes / SMALL_PAGE_BYTES);
  }
}

// How those who wait are answered.

export class WakesNobody extends VirtualWires {
  override wakePage(): void {}
}

export class SignalsNoCompletions extends VirtualWires {
  override signalCompletions(): void {}
}

export class GivesNoZeroesForHoles extends VirtualWires {
  override zeroPage(): Outcome {
    return "installed";
  }
}

export class DropsWhatTheSocketRefuses extends VirtualWires {
  override sendReplies(kind: SocketKind): boolean {
    super.sendReplies(kind);
    return true;
  }
}

export class TakesPutOffForDone extends VirtualWires {
  override continuePage(page: number): Outcome {
    const outcome = super.continuePage(page);
    return outcome === "deferred" ? "installed" : outcome;
  }
}

export class DropsWhatTheRingRefuses extends SeamRing {
  override complete(gpa: number): boolean {
    super.complete(gpa);
    return true;
  }
}

export class ForgetsTheRingsOfTheDead extends Answers {
  override signalAll(): void {}
}

/** Strikes out whom it is about to answer: a crash in between, and nobody knows of him. */
export class StrikesOutBeforeItAnswers extends Answers {
  readonly #waiters: Waiters;
  readonly #wires: ConstructorParameters<typeof Answers>[3];

  constructor(...parts: ConstructorParameters<typeof Answers>) {
    super(...parts);
    this.#waiters = parts[0];
    this.#wires = parts[3];
  }

  override flush(): boolean {
    const { kinds, vcpus, pages, flags, gpas, offsets } = this.#waiters;
    for (let index = this.#waiters.length - 1; index >= 0; index--) {
      const kind = WaiterKind.request;
      if (kinds[index] !== kind || !this.#waiters.isReady(index)) continue;
      const [vcpu, page, flag] = [vcpus[index]!, pages[index]!, flags[index]!];
      const [gpa, offset] = [gpas[index]!, offsets[index]!];
      this.#waiters.remove(index);
      this.#wires.addReply(vcpu, flag, gpa, offset);
      if (this.#wires.sendReplies(kind)) continue;
      this.#waiters.add(kind, vcpu, page, flag, gpa, offset);
      this.#waiters.setReady(this.#waiters.length - 1, true);
    }
    return super.flush();
  }
}

// How faults come in.

export class ArmsWithoutALook extends SeamRing {
  readonly #words: Uint32Array;

  constructor(page: ArrayBuffer, seams: Seams) {
    super(page, seams);
    this.#words = new Uint32Array(page);
  }

  override arm(): boolean {
    super.arm();
    this.#words[FLAGS_WORD]! |= NOTIFY_ARMED;
    return true;
  }
}

export class NeverArms extends Userfaults {
  override arm(): boolean {
    return true;
  }
}

export class ForgetsWhoWaited extends Userfaults {
  override resume(): void {}
}

export class LeavesClearBitsAlone extends Userfaults {
  override claimClearPages(): number {
    return 0;
  }
}

export class ForgetsASecondAsker extends Userfaults {
  override request(...args: Parameters<Userfaults["request"]>): ReturnType<Userfaults["request"]> {
    const [kind, vcpu, flags, gpa, page, offset] = args;
    if (this.#asked.has(page)) return "known";
    this.#asked.add(page);
    return super.request(kind, vcpu, flags, gpa, page, offset);
  }

  readonly #asked = new Set<number>();
}

export class TakesOutBeforeItWritesDown extends UserfaultSession {
  protected override takeRequests(
    kind: SocketKind,
    stream: VirtualStream,
    seen: VirtualRequest[],
  ): void {
    stream.requests.splice(0, seen.length);
    for (const request of seen) this.takeRequest(kind, request);
  }
}

export class NeverSaysItLater extends UserfaultSession {
  protected override rest(): "idle" | "again" | "later" {
    const rest = super.rest();
    return rest === "later" ? "idle" : rest;
  }
}

// How one takes over.

export function takesOverWithoutAWake({ table, faults, answers, ...rest }: Takeover): void {
  table.forgetPending();
  recoverUserfaultTable({ table, faults, answers, ...rest });
  faults.resume();
  answers.signalAll();
}

export function takesOverWithPending({ kernel, faults, answers, ...rest }: Takeover): void {
  kernel.wakeAll();
  recoverUserfaultTable({ kernel, faults, answers, ...rest });
  faults.resume();
  answers.signalAll();
}

export function trustsClearBits({ kernel, table, bitmap, faults, answers }: Takeover): void {
  table.forgetPending();
  kernel.wakeAll();
  for (let page = 0; page < table.pageCount; page++) {
    if (!bitmap.isSet(page)) table.set(page, PageState.installed);
  }
  faults.resume();
  answers.signalAll();
}

export function asksNoFile({ kernel, table, faults, answers }: Takeover): void {
  table.forgetPending();
  kernel.wakeAll();
  faults.resume();
  answers.signalAll();
}
