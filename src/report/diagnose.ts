/**
 * Says what has made a restore slow, the dearest first, with the numbers that say so and what to
 * change. PURE.
 */
import { blameOf } from "./blame.ts";
import type { Finding, FindingId } from "./findings.ts";
import { remedies } from "./remedies.ts";
import type { RestoreReport } from "./restore-report.ts";

/** A VM that waited less than this, and less than this share of its time, was not slowed by us. */
const LITTLE_US = 50_000;
const LITTLE_SHARE = 0.1;
/** What is less than both of these is not worth a word. */
const LEAST_SHARE = 0.01;
const LEAST_US = 1000;

/** Of a VM that hardly waited, `not-memory` comes first, and then what little there is. */
export function diagnose(report: RestoreReport): Finding[] {
  const blamed = [...blameOf(report)]
    .filter(([, us]) => us >= LEAST_US || us >= report.waitedUs * LEAST_SHARE)
    .sort(([, left], [, right]) => right - left)
    .map(([id, us]) => findingOf(id, us, report));
  const wasLittle = report.waitedUs < LITTLE_US && report.waitedUs <= report.wallUs * LITTLE_SHARE;
  return wasLittle ? [findingOf("not-memory", report.waitedUs, report), ...blamed] : blamed;
}

function findingOf(id: FindingId, us: number, report: RestoreReport): Finding {
  const share = report.waitedUs === 0 ? 0 : us / report.waitedUs;
  return { id, us, share, ...remedies[id](report, us) };
}
