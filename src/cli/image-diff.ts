/** `faultline image diff`: which pages differ between two images. */
import { Command } from "commander";
import { formatBytes, formatHex } from "../base/units.ts";
import { type DiffReport, diffImages } from "../image/diff.ts";
import {
  IMAGE_ARGUMENT,
  printResult,
  runImageWork,
  type StoreFlags,
  withStoreOptions,
} from "./image-options.ts";
import { Progress } from "./progress.ts";

/** What a terminal shows; --json has all. */
const SHOWN_EXTENTS = 20;

export function diffCommand(): Command {
  const command = new Command("diff")
    .description("show which pages differ between two images")
    .argument("<a>", IMAGE_ARGUMENT)
    .argument("<b>", IMAGE_ARGUMENT);
  return withStoreOptions(command)
    .addHelpText(
      "after",
      "\nExample:\n  faultline image diff web-1 web-2 --store /var/lib/images\n",
    )
    .action(diff);
}

async function diff(a: string, b: string, flags: StoreFlags): Promise<void> {
  await runImageWork(flags, async ({ signal, image }) => {
    using progress = new Progress("comparing");
    const options = { onProgress: progress.update, signal };
    const report = await diffImages(await image(a), await image(b), options);
    progress[Symbol.dispose]();
    printResult(flags, report, describe(report));
  });
}

function describe({ a, b, sizeBytes, comparedBytes, differentPages, extents }: DiffReport): string {
  const bytes = extents.reduce((sum, { start, end }) => sum + end - start, 0);
  const lines = [
    differentPages === 0
      ? `${a} and ${b} are equal in ${formatBytes(comparedBytes)}`
      : `${a} and ${b} differ in ${differentPages} pages, ${formatBytes(bytes)} of ` +
        `${formatBytes(comparedBytes)}, in ${extents.length} runs`,
  ];
  if (sizeBytes.a !== sizeBytes.b) {
    lines.push(`their sizes differ: ${sizeBytes.a} and ${sizeBytes.b} bytes`);
  }
  for (const { start, end } of extents.slice(0, SHOWN_EXTENTS)) {
    lines.push(`  ${formatHex(start)} to ${formatHex(end)}: ${formatBytes(end - start)}`);
  }
  const rest = extents.length - SHOWN_EXTENTS;
  if (rest > 0) lines.push(`  and ${rest} more runs: --json lists all`);
  return `${lines.join("\n")}\n`;
}
