/** `faultline image verify`: reads and hashes every chunk of an image again. */
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { formatBytes, formatHex } from "../base/units.ts";
import type { DamagedChunk } from "../image/read-chunks.ts";
import { type VerifyReport, verifyImage, type WorkingSetVerdict } from "../image/verify.ts";
import {
  IMAGE_ARGUMENT,
  printResult,
  runImageWork,
  type StoreFlags,
  withJobs,
  withStoreOptions,
} from "./image-options.ts";
import { Progress } from "./progress.ts";

export function verifyCommand(): Command {
  const command = new Command("verify")
    .description("read every chunk of an image again, and tell which are damaged")
    .argument("<image>", IMAGE_ARGUMENT);
  return withJobs(withStoreOptions(command))
    .addHelpText(
      "after",
      "\nExit codes: 0 every chunk and the working set are whole, 3 something is not.\n" +
        "\nExample:\n  faultline image verify web-1 --store /var/lib/images\n",
    )
    .action(verify);
}

async function verify(
  reference: string,
  flags: StoreFlags & { readonly jobs: number },
): Promise<void> {
  await runImageWork(flags, async ({ signal, image }) => {
    using progress = new Progress("verifying");
    const stored = await image(reference);
    const { jobs } = flags;
    const report = await verifyImage(stored, { jobs, onProgress: progress.update, signal });
    progress[Symbol.dispose]();
    printResult(flags, report, describe(report));
    const isWhole = report.damaged.length === 0 && report.workingSet.kind !== "damaged";
    if (!isWhole) process.exitCode = ExitCode.badSnapshot;
  });
}

function describe({ name, chunks, bytes, damaged, workingSet }: VerifyReport): string {
  const all = `${chunks} chunks, ${formatBytes(bytes)}`;
  const set = describeWorkingSet(workingSet);
  if (damaged.length === 0) return `${name} is whole: ${all}${set}\n`;
  return (
    `${name} is damaged: ${damaged.length} of ${all}${set}\n` +
    damaged.map((chunk) => `  ${describeChunk(chunk)}\n`).join("") +
    "Restore these chunks from another store, or pack the snapshot again under another name.\n"
  );
}

function describeWorkingSet({ kind, reason }: WorkingSetVerdict): string {
  if (kind === "none") return "";
  return kind === "found" ? ", and a working set" : `\nNo working set is used. ${reason}`;
}

function describeChunk({ id, reason, offsets }: DamagedChunk): string {
  const more = offsets.length > 1 ? ` and ${offsets.length - 1} other places` : "";
  return `${id} ${reason}; it is needed at ${formatHex(offsets[0]!)}${more}`;
}
