/** `faultline why`: where the time of a restore has gone, and what to change. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Command } from "commander";
import { describeError, FaultlineError } from "../base/errors.ts";
import type { ControlClient } from "../daemon/control/client.ts";
import { summaryOf } from "../daemon/reports/report-files.ts";
import { parseReport } from "../daemon/reports/report-schema.ts";
import { compareReports, lastGood } from "../report/compare.ts";
import { diagnose } from "../report/diagnose.ts";
import { reportPage } from "../report/html.ts";
import type { ReportSummary, RestoreReport } from "../report/restore-report.ts";
import { describeReport, type Verdict } from "../report/text.ts";
import {
  type ControlFlags,
  findSession,
  openClient,
  print,
  withControlOptions,
} from "./control-options.ts";

interface WhyFlags extends ControlFlags {
  readonly compare?: string;
  readonly lastGood: boolean;
  readonly html?: string;
}

/** Where a report was found, and others of its kind. */
interface Found {
  readonly report: RestoreReport;
  /** Of the same memory, this one perhaps among them. */
  others(): Promise<readonly ReportSummary[]>;
  open(summary: ReportSummary): Promise<RestoreReport>;
}

export function whyCommand(): Command {
  const command = new Command("why")
    .description("say where the time of a restore went, and what to change")
    .argument(
      "<vm|report>",
      "a session's id, the beginning of it, or its VMM's process id; or a report's file (a path)",
    )
    .option("--compare <vm|report>", "what became worse since that other restore")
    .option(
      "--last-good",
      "the same since the last restore of this memory that was no slow one",
      false,
    )
    .option("--html <file>", "write a page with pictures there, for a browser");
  return withControlOptions(command)
    .addHelpText(
      "after",
      "\nExamples:\n  faultline why 3f2a\n  faultline why 3f2a --last-good --html why.html\n" +
        "  faultline why ./4711.20261124T022717914Z.json --compare 3f2a\n",
    )
    .action(why);
}

async function why(name: string, flags: WhyFlags): Promise<void> {
  if (flags.compare !== undefined && flags.lastGood) {
    throw new FaultlineError("bad-option", "Give --compare or --last-good: one of them.");
  }
  const found = await find(name, flags);
  const { report } = found;
  const other = await otherOf(found, flags);
  const comparison = other === null ? null : compareReports(report, other);
  const verdict: Verdict = { report, findings: diagnose(report), comparison };
  if (flags.html !== undefined) writePage(flags.html, verdict);
  print(flags, verdict, describeReport(verdict));
}

/** A path has a slash, or ends as reports do; ids do neither. */
function isFile(name: string): boolean {
  return name.includes("/") || name.endsWith(".json");
}

async function find(name: string, flags: ControlFlags): Promise<Found> {
  return isFile(name) ? findFile(resolve(name)) : await findKept(openClient(flags), name);
}

/** Its neighbours are what the same `serve` has written, or the same daemon of the same memory. */
function findFile(path: string): Found {
  const folder = dirname(path);
  const paths = new Map<ReportSummary, string>();
  return {
    report: readReport(path),
    others: async () => {
      for (const name of readdirSync(folder)) {
        const summary = name.endsWith(".json") ? summaryAt(join(folder, name)) : null;
        if (summary !== null) paths.set(summary, join(folder, name));
      }
      return [...paths.keys()];
    },
    open: async (summary) => readReport(paths.get(summary)!),
  };
}

async function findKept(client: ControlClient, name: string): Promise<Found> {
  const report = await client.report(await idOf(client, name));
  return {
    report,
    others: async () => await client.reports(report.memory),
    open: async ({ session, connectedAt }) => await client.report(session, connectedAt),
  };
}

/** Reports are kept for longer than the daemon knows their sessions. */
async function idOf(client: ControlClient, name: string): Promise<string> {
  try {
    return (await findSession(client, name)).id;
  } catch (error) {
    const kept = await client.reports();
    if (kept.some(({ session }) => session === name)) return name;
    throw error;
  }
}

async function otherOf(found: Found, flags: WhyFlags): Promise<RestoreReport | null> {
  if (flags.compare !== undefined) return (await find(flags.compare, flags)).report;
  if (!flags.lastGood) return null;
  const good = lastGood(found.report, await found.others());
  if (good !== null) return await found.open(good);
  throw new FaultlineError(
    "no-report",
    `No earlier restore of ${found.report.memory} that is over is reported of: there is ` +
      "nothing to compare with. Name another one: --compare VM, or --compare FILE.",
  );
}

function readReport(path: string): RestoreReport {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new FaultlineError(
      "no-report",
      `The report ${path} cannot be read. Name a file that \`serve --report-folder\` has ` +
        "written, or a session of the daemon",
      { cause },
    );
  }
  return reportIn(text, path);
}

/** What `why --json` has printed has the report in it. */
function reportIn(text: string, path: string): RestoreReport {
  const isVerdict = /^\s*\{\s*"report"\s*:/.test(text);
  if (!isVerdict) return parseReport(text, path);
  try {
    return parseReport(JSON.stringify((JSON.parse(text) as Verdict).report), path);
  } catch (error) {
    if (error instanceof FaultlineError) throw error;
    return parseReport(text, path);
  }
}

/** Null: another file. */
function summaryAt(path: string): ReportSummary | null {
  try {
    return summaryOf(readReport(path));
  } catch {
    return null;
  }
}

function writePage(path: string, verdict: Verdict): void {
  try {
    writeFileSync(path, reportPage(verdict));
  } catch (error) {
    const reason = describeError(error);
    throw new FaultlineError("bad-option", `--html ${path} cannot be written: ${reason}.`);
  }
}
