/** `faultline image pack`: makes an image of a snapshot's memory. */
import { Command } from "commander";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import {
  DEFAULT_CHUNK_BYTES,
  DEFAULT_LEVEL,
  LEAST_CHUNK_BYTES,
  MOST_CHUNK_BYTES,
  type PackReport,
  packImage,
} from "../image/pack.ts";
import { ZSTD_LEAST_LEVEL, ZSTD_MOST_LEVEL } from "../linux/zstd.ts";
import { type Digest, digests } from "../snapshot/chunk-id.ts";
import { parseImageReference } from "../source/image-reference.ts";
import {
  printResult,
  runImageWork,
  type StoreFlags,
  withJobs,
  withStoreOptions,
} from "./image-options.ts";
import { oneOf, powerOfTwo, wholeNumber } from "./options.ts";
import { Progress } from "./progress.ts";

interface PackFlags extends StoreFlags {
  readonly name: string;
  readonly parent?: string;
  readonly diff?: string;
  readonly fromSession?: string;
  readonly chunkSize?: number;
  readonly digest?: Digest;
  readonly level: number;
  readonly state?: string;
  readonly jobs: number;
}

export function packCommand(): Command {
  const command = new Command("pack")
    .description("make an image of a snapshot's memory file, or of a diff over an image")
    .argument("[memory]", "the snapshot's full memory file")
    .requiredOption("--name <name>", "what the image is called in its store")
    .option("--parent <image>", "an image of the same VM: only what changed is stored")
    .option("--diff <file>", "a diff snapshot over the parent, instead of a memory file")
    .option(
      "--from-session <file>",
      "the memory of a paused VM, by its file of serve --track-dirty",
    )
    .option("--state <file>", "the VMM's state file, kept with the image")
    .option(
      "--chunk-size <size>",
      "bytes per chunk: 4K to 4M (default: the parent's, else 256K)",
      powerOfTwo("--chunk-size", LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES),
    )
    .option(
      "--digest <digest>",
      `how chunks are called: ${digests.join(" or ")} (default: the parent's, else sha256)`,
      oneOf("--digest", digests),
    )
    .option(
      "--level <n>",
      `zstd level, ${ZSTD_LEAST_LEVEL} (fast) to ${ZSTD_MOST_LEVEL} (small)`,
      wholeNumber("--level", ZSTD_LEAST_LEVEL, ZSTD_MOST_LEVEL),
      DEFAULT_LEVEL,
    );
  return withJobs(withStoreOptions(command))
    .addHelpText(
      "after",
      "\nExamples:\n" +
        "  faultline image pack vm.mem --name web-1 --state vm.state --store /var/lib/images\n" +
        "  faultline image pack --diff vm.diff --parent web-1 --name web-2 " +
        "--store /var/lib/images\n" +
        "  faultline image pack --from-session /run/vm/4711.session --parent web-2 --name web-3 " +
        "--store /var/lib/images\n" +
        "\nInterrupted, it leaves no image; run again, it stores only what is still missing.\n",
    )
    .action(pack);
}

async function pack(memory: string | undefined, flags: PackFlags): Promise<void> {
  const path = inputOf(memory, flags);
  const { store: elsewhere, name } = parseImageReference(flags.name);
  if (elsewhere !== null) {
    const message = `--name ${flags.name} cannot be used: give NAME, and its place by --store.`;
    throw new FaultlineError("bad-option", message);
  }
  await runImageWork(flags, async ({ signal, store, image }) => {
    const parent = flags.parent === undefined ? null : await image(flags.parent);
    // Only chunks of the same size can be shared.
    const parentSize = parent?.index.isFixed === true ? parent.index.chunkSizes.max : null;
    const startMs = performance.now();
    using progress = new Progress("packing");
    const report = await packImage({
      store: await store(undefined, { create: true }),
      name,
      path,
      isDiff: flags.diff !== undefined,
      isSession: flags.fromSession !== undefined,
      parent,
      chunkSizeBytes: flags.chunkSize ?? parentSize ?? DEFAULT_CHUNK_BYTES,
      digest: flags.digest ?? parent?.index.digest ?? "sha256",
      level: flags.level,
      jobs: flags.jobs,
      ...(flags.state === undefined ? {} : { statePath: flags.state }),
      onProgress: progress.update,
      signal,
    });
    const seconds = (performance.now() - startMs) / 1000;
    progress[Symbol.dispose]();
    printResult(flags, { ...report, seconds }, describe(report, seconds));
  });
}

function inputOf(memory: string | undefined, flags: PackFlags): string {
  const given = [memory, flags.diff, flags.fromSession].filter((each) => each !== undefined);
  const problem =
    given.length !== 1
      ? "Give either a memory file, or --diff with a diff file, or --from-session."
      : flags.diff !== undefined && flags.parent === undefined
        ? "--diff needs --parent: the image that the diff was taken over."
        : null;
  if (problem !== null) throw new FaultlineError("bad-option", problem);
  return given[0]!;
}

function describe(report: PackReport, seconds: number): string {
  const { memorySizeBytes, readBytes, chunks, zeroChunks, sharedChunks, newChunks } = report;
  const rate = formatBytes(Math.round(memorySizeBytes / seconds));
  return (
    `packed ${report.name}: ${formatBytes(memorySizeBytes)} of memory, ` +
    `${formatBytes(readBytes)} of it data, in ${seconds.toFixed(2)} s (${rate}/s)\n` +
    `${chunks} chunks: ${zeroChunks} zero, ${sharedChunks} shared, ${newChunks} new, which take ` +
    `${formatBytes(report.storedBytes)} in ${report.store}\n${describeSession(report)}`
  );
}

function describeSession({ session }: PackReport): string {
  if (session === undefined) return "";
  const { dirtyBytes, processBytes } = session;
  return (
    `${formatBytes(dirtyBytes)} of the VM's memory may have changed, ` +
    `${formatBytes(processBytes)} of it was read from its process\n`
  );
}
