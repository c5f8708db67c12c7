/** `faultline image extract`: an image's memory as a file. */
import { Command } from "commander";
import { formatBytes } from "../base/units.ts";
import { extractImage } from "../image/extract.ts";
import {
  IMAGE_ARGUMENT,
  printResult,
  runImageWork,
  type StoreFlags,
  withJobs,
  withStoreOptions,
} from "./image-options.ts";
import { Progress } from "./progress.ts";

interface ExtractFlags extends StoreFlags {
  readonly force: boolean;
  readonly jobs: number;
}

export function extractCommand(): Command {
  const command = new Command("extract")
    .description("write an image's memory to a sparse file, every chunk verified")
    .argument("<image>", IMAGE_ARGUMENT)
    .argument("<file>", "the memory file to write")
    .option("--force", "replace the file if there is one", false);
  return withJobs(withStoreOptions(command))
    .addHelpText(
      "after",
      "\nExample:\n  faultline image extract web-1 copy.mem --store /var/lib/images\n",
    )
    .action(extract);
}

async function extract(reference: string, path: string, flags: ExtractFlags): Promise<void> {
  await runImageWork(flags, async ({ signal, image }) => {
    const { force, jobs } = flags;
    const startMs = performance.now();
    using progress = new Progress("extracting");
    const onProgress = progress.update;
    const stored = await image(reference);
    const report = await extractImage(stored, { path, force, jobs, onProgress, signal });
    const seconds = (performance.now() - startMs) / 1000;
    progress[Symbol.dispose]();
    const text =
      `extracted ${report.name} to ${path}: ${formatBytes(report.sizeBytes)}, ` +
      `${formatBytes(report.allocatedBytes)} on disk, in ${seconds.toFixed(2)} s\n`;
    printResult(flags, { ...report, seconds }, text);
  });
}
