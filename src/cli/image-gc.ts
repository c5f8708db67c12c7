/** `faultline image gc`: removes chunks that no image needs. */
import { Command } from "commander";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import { collectGarbage, type GcReport } from "../image/gc.ts";
import { isCollectable } from "../source/collectable-store.ts";
import { printResult, runImageWork, type StoreFlags, withStoreOptions } from "./image-options.ts";
import { wholeNumber } from "./options.ts";

/** A pack that is suspended between its last two steps for longer than this is nobody's. */
const DEFAULT_MIN_AGE_H = 24;
const MAX_MIN_AGE_H = 24 * 365;
const HOUR_MS = 3_600_000;

interface GcFlags extends StoreFlags {
  readonly dryRun: boolean;
  readonly minAge: number;
}

export function gcCommand(): Command {
  const command = new Command("gc")
    .description("remove the chunks that no index of the store needs")
    .option("--dry-run", "only say what would be removed", false)
    .option(
      "--min-age <hours>",
      "keep what is younger; 0 only when nobody packs",
      wholeNumber("--min-age", 0, MAX_MIN_AGE_H),
      DEFAULT_MIN_AGE_H,
    );
  return withStoreOptions(command)
    .addHelpText(
      "after",
      "\nTo remove an image, remove its NAME.caibx (and NAME.json, NAME.state and " +
        "NAME.workingset), then run this.\n" +
        "\nExample:\n  faultline image gc --store /var/lib/images --dry-run\n",
    )
    .action(gc);
}

async function gc(flags: GcFlags): Promise<void> {
  await runImageWork(flags, async ({ signal, store: open }) => {
    const store = await open();
    if (!isCollectable(store)) {
      throw new FaultlineError(
        "store-refused",
        `Cannot remove anything from ${store.location}: it is a web server, which can only be ` +
          "read. Run gc on the folder or the bucket behind it (dir:, s3://).",
      );
    }
    const { dryRun, minAge } = flags;
    const report = await collectGarbage(store, { minAgeMs: minAge * HOUR_MS, dryRun, signal });
    printResult(flags, report, describe(report));
  });
}

function describe(report: GcReport): string {
  const { indexes, usedChunks, removedChunks, removedBytes, spared, dryRun } = report;
  const verb = dryRun ? "would remove" : "removed";
  const sets = report.removedWorkingSets;
  const setsText = sets === 0 ? "" : `${verb} ${sets} working sets of images that are gone\n`;
  const young = spared === 0 ? "" : `; ${spared} unused ones are too young (--min-age)`;
  return (
    `${verb} ${removedChunks} chunks, ${formatBytes(removedBytes)}${young}\n` +
    setsText +
    `${usedChunks} chunks are used by ${indexes} indexes\n`
  );
}
