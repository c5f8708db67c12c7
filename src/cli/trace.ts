/** `faultline trace`: records what is done for a VM, and shows or exports recordings. */
import { readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { Command } from "commander";
import { describeError, FaultlineError } from "../base/errors.ts";
import { readRecording } from "../trace/read-recording.ts";
import type { Recording } from "../trace/recording.ts";
import { summarize } from "../trace/summary.ts";
import { type ControlFlags, VM_ARGUMENT, withControlOptions } from "./control-options.ts";
import { wholeNumber } from "./options.ts";
import { exportEvents, exportReplay } from "./trace-export.ts";
import { recordToFile } from "./trace-record.ts";
import { describeDamage, describeSummary } from "./trace-text.ts";

interface RecordFlags extends ControlFlags {
  readonly output?: string;
  /** Seconds. */
  readonly for: number;
}

interface ShowFlags {
  readonly head: number;
  readonly json: boolean;
}

interface ExportFlags {
  readonly perfetto?: string;
  readonly replay?: string;
}

const MAX_FOR_S = 3600;
const MAX_HEAD = 10_000;
/** Beyond what a recording with all the records that it may have takes. */
const MAX_FILE_BYTES = 512 * 2 ** 20;

export function traceCommand(): Command {
  return new Command("trace")
    .description("record every fault of a VM and its cost, and look at recordings")
    .addCommand(recordCommand())
    .addCommand(showCommand())
    .addCommand(exportCommand());
}

function recordCommand(): Command {
  const command = new Command("record")
    .description("record what the daemon does for a VM from now on, until Ctrl-C or the VM's end")
    .argument("<vm>", VM_ARGUMENT)
    .option("-o, --output <file>", "where to (default: ID.fltrace)")
    .option("--for <s>", "for so long", wholeNumber("--for", 1, MAX_FOR_S), MAX_FOR_S);
  return withControlOptions(command)
    .addHelpText(
      "after",
      "\nIt waits for a VM that has not come yet, for as long. With `faultline restore --trace`\n" +
        "the recording begins with the VM's first fault, whenever it is asked for.\n" +
        "\nExample:\n  faultline trace record web-1 -o web-1.fltrace --for 30\n",
    )
    .action(async (vm: string, flags: RecordFlags) => {
      process.exitCode = await recordToFile(vm, flags);
    });
}

function showCommand(): Command {
  return new Command("show")
    .description("what a recording comes to, its dearest pages, and its first faults")
    .argument("<file>", "a recording")
    .option("--head <n>", "the first so many faults", wholeNumber("--head", 0, MAX_HEAD), 20)
    .option("--json", "print the result as JSON", false)
    .addHelpText("after", "\nExample:\n  faultline trace show web-1.fltrace --head 50\n")
    .action((file: string, { head, json }: ShowFlags) => {
      const summary = summarize(readRecordingFile(file), head);
      process.stdout.write(json ? `${JSON.stringify(summary)}\n` : describeSummary(summary));
    });
}

function exportCommand(): Command {
  return new Command("export")
    .description("write a recording in another format")
    .argument("<file>", "a recording")
    .option("--perfetto <out>", "trace events, for ui.perfetto.dev and chrome://tracing")
    .option("--replay <out>", "a guest that does the same, for `faultline bench --traces`")
    .addHelpText(
      "after",
      "\nExamples:\n  faultline trace export web-1.fltrace --perfetto web-1.json\n" +
        "  faultline trace export web-1.fltrace --replay web-1.trace\n",
    )
    .action((file: string, { perfetto, replay }: ExportFlags) => {
      if (perfetto === undefined && replay === undefined) {
        throw new FaultlineError("bad-option", "Say what to write: --perfetto OUT, --replay OUT.");
      }
      assertAllDiffer([file, perfetto, replay]);
      const recording = readRecordingFile(file);
      const damage = describeDamage(recording);
      if (damage !== null) process.stderr.write(`${file}: ${damage}\n`);
      // First: a recording may hold nothing to replay, and then nothing is written.
      if (replay !== undefined) {
        const { pages, sizeBytes } = exportReplay(recording, replay);
        process.stdout.write(`${replay}: ${pages} pages of ${sizeBytes} bytes of memory\n`);
      }
      if (perfetto !== undefined) {
        const count = exportEvents(recording, perfetto);
        process.stdout.write(`${perfetto}: ${count} events\n`);
      }
    });
}

/** @throws FaultlineError `bad-option`: one would be written over another */
function assertAllDiffer(paths: readonly (string | undefined)[]): void {
  const seen = new Set<string>();
  for (const path of paths) {
    if (path === undefined) continue;
    const stats = statSync(path, { throwIfNoEntry: false });
    const file = stats === undefined ? resolve(path) : `${stats.dev} ${stats.ino}`;
    if (seen.has(file)) {
      throw new FaultlineError(
        "bad-option",
        `${path} is named twice. Give the recording, and each export, a file of its own.`,
      );
    }
    seen.add(file);
  }
}

/** @throws FaultlineError `bad-option`, `trace-corrupt` */
function readRecordingFile(path: string): Recording {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new FaultlineError("bad-option", `${path} cannot be read: ${describeError(error)}.`);
  }
  if (bytes.length > MAX_FILE_BYTES) {
    throw new FaultlineError(
      "trace-corrupt",
      `${path} has ${bytes.length} bytes: no recording has more than ${MAX_FILE_BYTES}.`,
    );
  }
  return readRecording(bytes, path);
}
