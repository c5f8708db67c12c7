/**
 * `faultline doctor`: what this kernel lets this user do, and how to fix the rest.
 *
 * Exit code 0 if nothing is missing that `faultline serve` needs, else 5 (ExitCode.noAccess).
 * Optional findings never change the exit code.
 */
import { styleText } from "node:util";
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { type KernelReport, probeKernel } from "../uffd/probe.ts";
import { type Finding, type FindingStatus, findingsOf, mayServe } from "./doctor-report.ts";

const HELP = `
Findings are "ok", "missing" (no VM can be served without it) or "optional" (only some modes, or
other programs such as the VMM, need it). Every command shown after "fix:" may be pasted; it lasts
until the next boot (docs/KERNELS.md shows how to keep it).

Exit codes: 0 nothing is missing, 5 something is.

Examples:
  faultline doctor                          show everything, with fixes
  faultline doctor --json | jq -r '.findings[].fix // empty'
                                            only the commands that would fix something
`;

const STATUS_WIDTH = "optional".length;
const MIN_DETAIL_WIDTH = 40;
const statusColors = { ok: "green", missing: "red", optional: "yellow" } as const;

export function doctorCommand(): Command {
  return new Command("doctor")
    .description("show what this kernel and user may do, and how to fix the rest")
    .option("--json", "print findings and raw facts as JSON")
    .addHelpText("after", HELP)
    .action((options: { readonly json?: true }) => {
      const report = probeKernel();
      const findings = findingsOf(report);
      const output = options.json ? renderJson(report, findings) : renderText(report, findings);
      process.stdout.write(`${output}\n`);
      process.exitCode = mayServe(findings) ? ExitCode.ok : ExitCode.noAccess;
    });
}

function renderJson(report: KernelReport, findings: readonly Finding[]): string {
  return JSON.stringify({ mayServe: mayServe(findings), findings, report }, null, 2);
}

function renderText(report: KernelReport, findings: readonly Finding[]): string {
  const { kernel, user } = report;
  const title = `Linux ${kernel.release} on ${kernel.architecture}, user ${user.name}`;
  const indentWidth = STATUS_WIDTH + Math.max(...findings.map(({ name }) => name.length)) + 6;
  const lines = findings.flatMap((finding) => renderFinding(finding, indentWidth));
  const hint = containerHint(report, findings);
  return [styleText("bold", title), "", ...lines, "", ...hint, summaryOf(findings)].join("\n");
}

/** Most of /proc/sys is read-only in a container, and its devices are not the host's. */
function containerHint({ confinement }: KernelReport, findings: readonly Finding[]): string[] {
  const hasFix = findings.some((finding) => finding.fix !== undefined);
  if (confinement.container === null || !hasFix) return [];
  return ["This looks like a container: run sysctl, setfacl, tee and modprobe on its host.", ""];
}

/** Two columns, each with two spaces before it, then the detail; a fix is never wrapped. */
function renderFinding(finding: Finding, indentWidth: number): string[] {
  // Padded before it is coloured: escape sequences have a length, but no width.
  const status = paint(finding.status, finding.status.padEnd(STATUS_WIDTH));
  const name = finding.name.padEnd(indentWidth - STATUS_WIDTH - 4);
  const [first = "", ...rest] = wrap(finding.detail, detailWidth(indentWidth));
  const indent = " ".repeat(indentWidth);
  const lines = [`  ${status}  ${name}${first}`, ...rest.map((line) => `${indent}${line}`)];
  if (finding.fix !== undefined) lines.push(`${indent}fix: ${styleText("cyan", finding.fix)}`);
  return lines;
}

/** A pipe gets one line per detail, so that grep finds it whole. */
function detailWidth(indentWidth: number): number {
  const columns = process.stdout.isTTY ? process.stdout.columns : Number.POSITIVE_INFINITY;
  return Math.max(MIN_DETAIL_WIDTH, columns - indentWidth);
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}

/** styleText leaves the text alone unless stdout is a terminal, and honours NO_COLOR. */
function paint(status: FindingStatus, text: string): string {
  return styleText(statusColors[status], text);
}

function summaryOf(findings: readonly Finding[]): string {
  const count = (status: FindingStatus): number =>
    findings.filter((finding) => finding.status === status).length;
  const rest = `${count("optional")} optional.`;
  if (mayServe(findings)) return paint("ok", `Ready to serve VMs: nothing missing, ${rest}`);
  return paint("missing", `Not ready to serve VMs: ${count("missing")} missing, ${rest}`);
}
