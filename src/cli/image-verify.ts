/** `faultline image verify`: reads and hashes every chunk of an image again. */
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { formatBytes, formatHex } from "../base/units.ts";
import type { DamagedChunk } from "../image/read-chunks.ts";
import { type VerifyReport, verifyImage } from "../image/verify.ts";
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
      "\nExit codes: 0 every chunk is whole, 3 some are not.\n" +
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
    if (report.damaged.length > 0) process.exitCode = ExitCode.badSnapshot;
  });
}

function describe({ name, chunks, bytes, damaged }: VerifyReport): string {
  const all = `${chunks} chunks, ${formatBytes(bytes)}`;
  if (damaged.length === 0) return `${name} is whole: ${all}\n`;
  return (
    `${name} is damaged: ${damaged.length} of ${all}\n` +
    damaged.map((chunk) => `  ${describeChunk(chunk)}\n`).join("") +
    "Restore these chunks from another store, or pack the snapshot again under another name.\n"
  );
}

function describeChunk({ id, reason, offsets }: DamagedChunk): string {
  const more = offsets.length > 1 ? ` and ${offsets.length - 1} other places` : "";
  return `${id} ${reason}; it is needed at ${formatHex(offsets[0]!)}${more}`;
}
