/** What is said of each finding, and what to do about it. PURE. */
import { fetchRemedies } from "./fetch-remedies.ts";
import type { FindingId } from "./findings.ts";
import { hostRemedies } from "./host-remedies.ts";
import type { RestoreReport } from "./restore-report.ts";

export interface Remedy {
  readonly headline: string;
  readonly evidence: readonly string[];
  readonly advice: readonly string[];
}
/** `us`: what this finding is due. */
export type Remedies = Readonly<Record<FindingId, (report: RestoreReport, us: number) => Remedy>>;

export const remedies: Remedies = { ...fetchRemedies, ...hostRemedies };
