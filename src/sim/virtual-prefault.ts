/**
 * A mirror of src/engine/session-prefault.ts on a virtual kernel, around the real Prefaulter. What
 * it leaves out: counters. PURE.
 */
import type { Outcome } from "../base/outcome.ts";
import { ActionKind } from "../pager/actions.ts";
import {
  Prefaulter,
  type PrefaulterOptions,
  type PrefaultSettlement,
} from "../pager/prefaulter.ts";
import { UNREADABLE, ZERO_BODY } from "./virtual-memory.ts";
import type { HandledPages, SessionOptions, VirtualSession } from "./virtual-session.ts";

const REST_US = 1e6;
const DEFERRED_US = 1000;

export type Step = "more" | "waiting" | "done" | "stopped" | "gone";

export interface PrefaultOptions extends PrefaulterOptions {
  readonly stepPages: number;
  readonly makePrefaulter?: (options: PrefaulterOptions) => Prefaulter;
}

export class VirtualPrefault {
  #completes: boolean;
  dueUs = 0;
  readonly #options: PrefaultOptions;
  readonly #prefaulter: Prefaulter;

  constructor(options: PrefaultOptions) {
    const { makePrefaulter = (parts: PrefaulterOptions) => new Prefaulter(parts) } = options;
    this.#completes = options.isComplete;
    this.#options = options;
    this.#prefaulter = makePrefaulter(options);
  }

  get completes(): boolean {
    return this.#completes;
  }

  complete(): void {
    this.#completes = true;
    this.#prefaulter.complete();
    if (this.dueUs === Number.POSITIVE_INFINITY) this.dueUs = 0;
  }

  step<Pages extends HandledPages>(
    session: VirtualSession<Pages>,
    options: SessionOptions<Pages>,
    nowUs: number,
  ): Step {
    this.dueUs = 0;
    const prefaulter = this.#prefaulter;
    for (let left = this.#options.stepPages; left > 0; ) {
      if (!prefaulter.next(left)) return this.#endPass(nowUs);
      const absent = this.#absentPart(session, options);
      if (absent !== null) {
        prefaulter.wait(absent, prefaulter.firstPage + 1);
        continue;
      }
      left -= prefaulter.pageCount;
      const outcome = this.#install(options);
      const settlement = prefaulter.settle(outcome, options.kernel.doneBytes);
      options.tally.add("piece installed ahead");
      if (settlement !== "next") return this.#end(settlement, nowUs);
    }
    return "more";
  }

  settlePart(part: number, isLost: boolean): void {
    this.#prefaulter.settlePart(part, isLost);
    if (this.dueUs === Number.POSITIVE_INFINITY) this.dueUs = 0;
  }

  #endPass(nowUs: number): Step {
    if (!this.#prefaulter.isWaiting && this.#prefaulter.finishPass()) return "done";
    this.dueUs = this.#prefaulter.isWaiting ? Number.POSITIVE_INFINITY : nowUs + REST_US;
    return "waiting";
  }

  #end(settlement: Exclude<PrefaultSettlement, "next">, nowUs: number): Step {
    switch (settlement) {
      case "drain":
        this.dueUs = nowUs + DEFERRED_US;
        return "waiting";
      case "rest":
        this.dueUs = nowUs + REST_US;
        return "waiting";
      case "stop":
        return "stopped";
      case "gone":
        return "gone";
    }
  }

  #absentPart<Pages extends HandledPages>(
    session: VirtualSession<Pages>,
    { source, need }: SessionOptions<Pages>,
  ): number | null {
    const { kind, firstPage, pageCount } = this.#prefaulter;
    if (kind === ActionKind.zero) return null;
    const [absent] = source.absentParts(firstPage, pageCount);
    if (absent === undefined) return null;
    need(session, absent, false);
    return absent;
  }

  #install<Pages extends HandledPages>({
    kernel,
    source,
    regions,
  }: SessionOptions<Pages>): Outcome {
    const { kind, owner, region, firstPage, pageCount } = this.#prefaulter;
    const target = regions.addressOf(region, firstPage);
    if (kind === ActionKind.zero) {
      if (!kernel.isHugetlb) return kernel.zeropage(target, pageCount);
      return kernel.copy(target, new Array<number>(pageCount).fill(ZERO_BODY));
    }
    if (kind === ActionKind.assemble) {
      const body = source.assembled(firstPage);
      return body === UNREADABLE ? "badSource" : kernel.copy(target, [body]);
    }
    const bodies: number[] = [];
    for (let at = firstPage; at < firstPage + pageCount; at++) {
      bodies.push(source.fromLayer(owner, at));
    }
    return kernel.copy(target, bodies);
  }
}
