/** `faultline image push` and `image pull`: an image from one store to another. */
import { Command } from "commander";
import { formatBytes } from "../base/units.ts";
import { type TransferReport, transferImage } from "../image/transfer.ts";
import { readImageFiles } from "../source/stored-image.ts";
import {
  IMAGE_ARGUMENT,
  printResult,
  runImageWork,
  type StoreFlags,
  withJobs,
  withStoreOptions,
} from "./image-options.ts";
import { Progress } from "./progress.ts";

interface TransferFlags extends StoreFlags {
  readonly jobs: number;
}

const STORE_ARGUMENT = "PATH, dir:PATH or s3://BUCKET/PREFIX";
const RESUME = "\nInterrupted, it publishes no image; run again, it copies only what is missing.\n";

export function pushCommand(): Command {
  const command = new Command("push")
    .description("copy an image to another store: only the chunks that are missing there")
    .argument("<image>", IMAGE_ARGUMENT)
    .argument("<to>", STORE_ARGUMENT);
  return withJobs(withStoreOptions(command))
    .addHelpText(
      "after",
      `${RESUME}\nExample:\n  faultline image push web-1 s3://images/vm --store /var/lib/images\n`,
    )
    .action((image: string, to: string, flags: TransferFlags) =>
      transfer(image, to, flags, { running: "pushing", done: "pushed" }),
    );
}

export function pullCommand(): Command {
  const command = new Command("pull")
    .description("copy an image from another store: only the chunks that are missing here")
    .argument("<image>", IMAGE_ARGUMENT)
    .argument("[to]", `${STORE_ARGUMENT} (default: the store of --store)`);
  return withJobs(withStoreOptions(command))
    .addHelpText(
      "after",
      `${RESUME}\nExample:\n  faultline image pull s3://images/vm/web-1 --store /var/lib/images\n`,
    )
    .action((image: string, to: string | undefined, flags: TransferFlags) =>
      transfer(image, to, flags, { running: "pulling", done: "pulled" }),
    );
}

async function transfer(
  reference: string,
  toReference: string | undefined,
  flags: TransferFlags,
  words: { readonly running: string; readonly done: string },
): Promise<void> {
  await runImageWork(flags, async ({ signal, store, find }) => {
    const startMs = performance.now();
    const source = await find(reference);
    const files = await readImageFiles(source.store, source.name, signal);
    const to = await store(toReference, { create: true });
    using progress = new Progress(words.running);
    const { jobs } = flags;
    const onProgress = progress.update;
    const report = await transferImage(files, { to, jobs, onProgress, signal });
    const seconds = (performance.now() - startMs) / 1000;
    progress[Symbol.dispose]();
    printResult(flags, { ...report, seconds }, describe(report, seconds, words.done));
  });
}

function describe(report: TransferReport, seconds: number, verb: string): string {
  const { name, to, memorySizeBytes, chunks, sharedChunks, sentChunks, sentBytes } = report;
  const again =
    report.refetchedChunks === 0 ? "" : `; ${report.refetchedChunks} had to be read again`;
  return (
    `${verb} ${name} to ${to}: ${formatBytes(memorySizeBytes)} of memory in ` +
    `${seconds.toFixed(2)} s\n` +
    `${chunks} chunks: ${sharedChunks} were there, ${sentChunks} copied, ` +
    `${formatBytes(sentBytes)}${again}\n${describeWorkingSet(report)}`
  );
}

function describeWorkingSet({ workingSet }: TransferReport): string {
  switch (workingSet.kind) {
    case "none":
      return "";
    case "copied":
      return "its working set was copied\n";
    case "kept":
      return "its working set was there, from as many restores or more\n";
    case "leftOut":
      return `its working set was left out. ${workingSet.reason}\n`;
  }
}
