/** What tinyvm tells whoever started it: JSON lines on stdout. */
import { writeSync } from "node:fs";
import type { ChosenGuest } from "./guest.ts";

export type ReportEvent = (event: string, fields?: Readonly<Record<string, unknown>>) => void;

/** Written at once: the next step may block this thread for good. */
export const reportToStdout: ReportEvent = (event, fields) => {
  writeSync(1, `${JSON.stringify({ event, ...fields })}\n`);
};

/** Says which guest `auto` took, and why not KVM. */
export function reportChoice(report: ReportEvent, chosen: ChosenGuest): void {
  report("guest", chosen.kind === "kvm" ? { kind: "kvm" } : chosen);
}
