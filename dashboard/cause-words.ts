/** Where the time of a restore went, in words for people, and as shares. PURE. */
import { type CauseTimes, type RestoreCause, restoreCauses } from "../src/base/restore-causes.ts";
import { formatMicroseconds, formatShare } from "./formats.ts";

/** What the VM waited for, short. */
export const causeWords: Readonly<Record<RestoreCause, string>> = {
  guest: "guest ran",
  handshake: "handshake",
  queue: "busy worker",
  lookup: "lookup",
  install: "install",
  deferred: "kernel events",
  memory: "host memory",
  ahead: "installs ahead",
  fetching: "fetching",
  handover: "busy main thread",
  room: "room in cache",
  store: "store",
  near: "near copies",
  disk: "disk",
  decode: "decode",
  again: "fetched again",
  lost: "lost bytes",
  takeover: "takeover",
};

export interface CauseShare {
  readonly cause: RestoreCause;
  readonly us: number;
  /** Of all that was waited for, 0 to 1. */
  readonly share: number;
}

/** The causes that were waited for, the dearest first; `guest` is no wait. */
export function waits(times: CauseTimes): {
  readonly totalUs: number;
  readonly shares: CauseShare[];
} {
  const waited = restoreCauses.filter((cause) => cause !== "guest" && times[cause] > 0);
  const totalUs = waited.reduce((sum, cause) => sum + times[cause], 0);
  const shares = waited.map((cause) => ({
    cause,
    us: times[cause],
    share: times[cause] / totalUs,
  }));
  return { totalUs, shares: shares.sort((left, right) => right.us - left.us) };
}

/** `Waited 812 ms: store 79 %, decode 12 %, install 5 %.` */
export function waitSentence(times: CauseTimes): string {
  const { totalUs, shares } = waits(times);
  if (totalUs === 0) return "Waited for nothing yet.";
  const told = shares
    .slice(0, 3)
    .map(({ cause, share }) => `${causeWords[cause]} ${formatShare(share)}`);
  return `Waited ${formatMicroseconds(totalUs)}: ${told.join(", ")}.`;
}
