/**
 * Handlers of VMs with KVM Userfault that are wrong on purpose, each in one way: proof that the
 * oracle can see. `npm run sim -- --userfault --mutant NAME` shows what a failure looks like. PURE.
 */
import type { Answers } from "../../pager/answers.ts";
import type { GuestFile } from "../../pager/population.ts";
import type { UserfaultParts, Userfaults } from "../../pager/userfaults.ts";
import type { GuestPagesOptions, VirtualGuestPages, VirtualWires } from "./guest-pages.ts";
import type { Takeover, UserfaultHandlerParts } from "./handler.ts";
import type { UserfaultKernel } from "./kernel.ts";
import * as wrong from "./mutant-parts.ts";
import type { SeamRing, Seams } from "./seams.ts";
import type { UserfaultSession, UserfaultSessionOptions } from "./session.ts";

export interface UserfaultMutant {
  /** What it does wrong: "A handler that …". */
  readonly mistake: string;
  readonly parts: UserfaultHandlerParts;
}

const file = (mistake: string, Class: new (file: GuestFile) => GuestFile): UserfaultMutant => ({
  mistake,
  parts: { makeFile: (real) => new Class(real) },
});
const pages = (
  mistake: string,
  Class: new (options: GuestPagesOptions) => VirtualGuestPages,
): UserfaultMutant => ({ mistake, parts: { makePages: (options) => new Class(options) } });
const wires = (
  mistake: string,
  Class: new (kernel: UserfaultKernel) => VirtualWires,
): UserfaultMutant => ({ mistake, parts: { makeWires: (kernel) => new Class(kernel) } });
const answers = (
  mistake: string,
  Class: new (...parts: ConstructorParameters<typeof Answers>) => Answers,
): UserfaultMutant => ({ mistake, parts: { makeAnswers: (...parts) => new Class(...parts) } });
const faults = (
  mistake: string,
  Class: new (parts: UserfaultParts) => Userfaults,
): UserfaultMutant => ({ mistake, parts: { makeFaults: (parts) => new Class(parts) } });
const ring = (
  mistake: string,
  Class: new (page: ArrayBuffer, seams: Seams) => SeamRing,
): UserfaultMutant => ({
  mistake,
  parts: { makeRing: (page, seams) => new Class(page, seams) },
});
const session = (
  mistake: string,
  Class: new (options: UserfaultSessionOptions) => UserfaultSession,
): UserfaultMutant => ({ mistake, parts: { makeSession: (options) => new Class(options) } });
const takeover = (mistake: string, takeOver: (how: Takeover) => void): UserfaultMutant => ({
  mistake,
  parts: { takeOver },
});

export const userfaultMutants: Readonly<Record<string, UserfaultMutant>> = {
  "clear-before-write": {
    mistake: "clears the bit of a page before it writes the bytes",
    parts: { makePopulation: (real, bitmap) => new wrong.ClearsBeforeItWrites(real, bitmap) },
  },
  "bit-of-present-page-left-set": {
    mistake: "leaves the bit of a page set that KVM has filled",
    parts: { makePopulation: wrong.leavesBitsOfPresentPages },
  },
  "half-page-as-whole": file("takes half a page for all of it", wrong.TakesHalfAPageForAll),
  "present-page-as-trouble": file(
    "tries a page for ever that is there already",
    wrong.GivesUpAtPresentPages,
  ),
  "answer-before-clear": pages(
    "answers before it has let vCPUs at the page",
    wrong.AnswersBeforeItInstalls,
  ),
  "answer-beyond-short-write": pages(
    "answers for all pages of a write that ended early",
    wrong.AnswersForMoreThanItWrote,
  ),
  "answer-in-between": pages(
    "answers for pages between those that it installed",
    wrong.AnswersForPagesInBetween,
  ),
  "regions-taken-for-one": pages(
    "takes neighbours in the VMM's memory for neighbours in the file",
    wrong.TakesAllRegionsForOne,
  ),
  "eexist-without-wake": wires("wakes nobody when a page is mapped already", wrong.WakesNobody),
  "eagain-as-done": wires(
    "takes UFFDIO_CONTINUE that was put off for done",
    wrong.TakesPutOffForDone,
  ),
  "hole-without-zeroes": wires(
    "has no page for threads of the VMM that touch a hole",
    wrong.GivesNoZeroesForHoles,
  ),
  "completion-not-signalled": wires(
    "publishes completions and does not signal them",
    wrong.SignalsNoCompletions,
  ),
  "dropped-at-full-socket": wires(
    "forgets whom it could not answer as the socket took nothing",
    wrong.DropsWhatTheSocketRefuses,
  ),
  "dropped-at-full-ring": ring(
    "forgets whom it could not answer as the ring was full",
    wrong.DropsWhatTheRingRefuses,
  ),
  "never-said-later": session(
    "does not come back to answers that nobody took",
    wrong.NeverSaysItLater,
  ),
  "struck-out-before-answer": answers(
    "strikes out who waits before it answers",
    wrong.StrikesOutBeforeItAnswers,
  ),
  "arm-without-look": ring(
    "asks to be signalled, and does not look whether a fault has come meanwhile",
    wrong.ArmsWithoutALook,
  ),
  "never-armed": faults("sleeps without asking to be signalled", wrong.NeverArms),
  "second-asker-forgotten": faults(
    "answers only the first who asks for a page",
    wrong.ForgetsASecondAsker,
  ),
  "clear-bits-left-alone": faults(
    "leaves pages alone that the VMM has let through",
    wrong.LeavesClearBitsAlone,
  ),
  "taken-out-before-written-down": session(
    "takes requests out of the socket before it writes them down",
    wrong.TakesOutBeforeItWritesDown,
  ),
  "takeover-without-resume": faults(
    "takes over, and does not know who waited",
    wrong.ForgetsWhoWaited,
  ),
  "takeover-without-wake": takeover(
    "takes over, and does not have the VMM's threads fault again",
    wrong.takesOverWithoutAWake,
  ),
  "takeover-with-pending": takeover(
    "takes over faults as known that nobody serves any more",
    wrong.takesOverWithPending,
  ),
  "takeover-trusts-clear-bits": takeover(
    "takes over, and takes a clear bit for a page that was brought",
    wrong.trustsClearBits,
  ),
  "takeover-asks-no-file": takeover(
    "takes over, and writes over pages that a memfd holds",
    wrong.asksNoFile,
  ),
  "takeover-without-signals": answers(
    "takes over, and does not signal completions that were published",
    wrong.ForgetsTheRingsOfTheDead,
  ),
};
