/** `faultline image ls` and `image inspect`: what there is, and what it consists of. */
import { Command } from "commander";
import { formatBytes } from "../base/units.ts";
import {
  type InspectReport,
  inspectImage,
  type ListedImage,
  listImages,
} from "../image/inspect.ts";
import {
  IMAGE_ARGUMENT,
  printResult,
  runImageWork,
  type StoreFlags,
  withStoreOptions,
} from "./image-options.ts";
import { formatTable } from "./table.ts";

export function lsCommand(): Command {
  return withStoreOptions(new Command("ls").description("list the images of a store"))
    .addHelpText("after", "\nExample:\n  faultline image ls --store /var/lib/images\n")
    .action(async (flags: StoreFlags) => {
      await runImageWork(flags, async ({ signal, store }) => {
        const images = await listImages(await store(), signal);
        printResult(flags, { images }, describeList(images));
      });
    });
}

export function inspectCommand(): Command {
  return withStoreOptions(new Command("inspect").description("show what an image consists of"))
    .argument("<image>", IMAGE_ARGUMENT)
    .addHelpText("after", "\nExample:\n  faultline image inspect dir:/var/lib/images/web-1\n")
    .action(async (reference: string, flags: StoreFlags) => {
      await runImageWork(flags, async ({ signal, image }) => {
        const report = await inspectImage(await image(reference), signal);
        printResult(flags, report, describeImage(report));
      });
    });
}

function describeList(images: readonly ListedImage[]): string {
  if (images.length === 0) return "There are no images.\n";
  const rows = images.map(({ name, memorySizeBytes, chunks, created, parent, damage }) =>
    damage === null
      ? [name, formatBytes(memorySizeBytes), String(chunks), created ?? "-", parent ?? "-"]
      : [name, "damaged:", damage],
  );
  const whole = rows.filter((row) => row.length > 3);
  const damaged = rows.filter((row) => row.length === 3);
  const table = formatTable([["NAME", "MEMORY", "CHUNKS", "CREATED", "PARENT"], ...whole]);
  return table + damaged.map((row) => `${row.join("  ")}\n`).join("");
}

function describeImage(report: InspectReport): string {
  const { chunkSizes } = report;
  const isFixed = chunkSizes.min === chunkSizes.max;
  const sizes = isFixed
    ? formatBytes(chunkSizes.max)
    : `${formatBytes(chunkSizes.min)} to ${formatBytes(chunkSizes.max)}, by content`;
  const rows = [
    ["image", report.name],
    ["store", report.store],
    ["memory", formatBytes(report.memorySizeBytes)],
    ["created", report.created ?? "unknown"],
    ["parent", report.parent ?? "none"],
    ["VMM state", report.stateBytes === null ? "none" : formatBytes(report.stateBytes)],
    ["digest", report.digest],
    ["chunks", `${report.chunks} of ${sizes}`],
    [
      "zero",
      `${report.zeroChunks} chunks, ${formatBytes(report.zeroBytes)}, ` +
        `${share(report.zeroBytes, report.memorySizeBytes)} of the memory`,
    ],
    ["data", `${report.uniqueChunks} different chunks, ${formatBytes(report.uniqueBytes)}`],
    ...describeShare(report),
    ...describeWorkingSet(report),
  ];
  return formatTable(rows);
}

function describeShare({ inStore, uniqueBytes }: InspectReport): string[][] {
  if ("unknown" in inStore) return [["stored", `unknown: ${inStore.unknown}`]];
  const { storedBytes, sharedChunks, sharedBytes, missingChunks } = inStore;
  const rows = [
    ["stored", `${formatBytes(storedBytes)}, ${share(storedBytes, uniqueBytes)} of the data`],
    [
      "shared",
      `${sharedChunks} of these chunks, ${formatBytes(sharedBytes)}, are also in other images`,
    ],
  ];
  if (missingChunks > 0) {
    rows.push(["MISSING", `${missingChunks} chunks: see faultline image verify`]);
  }
  return rows;
}

function describeWorkingSet({ workingSet, memorySizeBytes }: InspectReport): string[][] {
  if (workingSet === null) return [["working set", "none"]];
  if ("unusable" in workingSet) return [["working set", `cannot be used: ${workingSet.unusable}`]];
  const { restores, pages, bytes, usualBytes } = workingSet;
  return [
    [
      "working set",
      `${pages} pages, ${formatBytes(bytes)}, ${share(bytes, memorySizeBytes)} of the memory, ` +
        `from ${restores} restores`,
    ],
    ["needed", `${formatBytes(usualBytes)} of it in at least 3 of 4 restores`],
  ];
}

function share(part: number, whole: number): string {
  return whole === 0 ? "0 %" : `${((100 * part) / whole).toFixed(1)} %`;
}
