/** What the image commands have in common: options, stores that get closed, Ctrl-C. */
import { availableParallelism, constants } from "node:os";
import type { Command } from "commander";
import { defaultStore, parseImageReference } from "../source/image-reference.ts";
import type { ObjectStore } from "../source/object-store.ts";
import { openStore } from "../source/open-store.ts";
import { openImage, type StoredImage } from "../source/stored-image.ts";
import { wholeNumber } from "./options.ts";

const MAX_JOBS = 64;

/** What every argument that names an image may be. */
export const IMAGE_ARGUMENT = "NAME, dir:PATH/NAME, https://HOST/…/NAME or s3://BUCKET/…/NAME";

export interface StoreFlags {
  readonly store?: string;
  readonly json: boolean;
}

export function withStoreOptions(command: Command): Command {
  return command
    .option(
      "--store <store>",
      "where images are: a folder, https://…, s3://… (default: $FAULTLINE_STORE)",
    )
    .option("--json", "print the result as JSON", false);
}

export function withJobs(command: Command): Command {
  return command.option(
    "--jobs <n>",
    "threads (default: all CPUs)",
    wholeNumber("--jobs", 1, MAX_JOBS),
    Math.min(availableParallelism(), MAX_JOBS),
  );
}

/** What a command works with: stores opened on the way are closed at its end. */
export interface ImageWork {
  readonly signal: AbortSignal;
  /** A store by its reference; without one, the store that the options name. */
  store(reference?: string, options?: { readonly create?: boolean }): Promise<ObjectStore>;
  /** The store and the name that a reference stands for; nobody has looked whether it is there. */
  find(reference: string): Promise<{ readonly store: ObjectStore; readonly name: string }>;
  image(reference: string): Promise<StoredImage>;
}

/**
 * Runs a command's work. SIGINT and SIGTERM end it in order: threads stop, files that are not whole
 * are removed, and the exit code is the shell's own for the signal.
 */
export async function runImageWork(
  flags: StoreFlags,
  work: (tools: ImageWork) => Promise<void>,
): Promise<void> {
  const interrupt = new AbortController();
  let received: NodeJS.Signals | null = null;
  const onSignal = (signal: NodeJS.Signals): void => {
    received = signal;
    interrupt.abort(new Error(`interrupted by ${signal}`));
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  const stores = new Map<string, ObjectStore>();
  const open: ImageWork["store"] = async (reference = defaultStore(flags.store), options = {}) => {
    const known = stores.get(reference);
    if (known !== undefined) return known;
    const store = await openStore(reference, options);
    stores.set(reference, store);
    return store;
  };
  const find: ImageWork["find"] = async (reference) => {
    const { store, name } = parseImageReference(reference);
    return { store: await open(store ?? undefined), name };
  };
  const { signal } = interrupt;
  try {
    await work({
      signal,
      store: open,
      find,
      image: async (reference) => {
        const { store, name } = await find(reference);
        return await openImage(store, name, signal);
      },
    });
  } catch (error) {
    if (received === null) throw error;
    process.stderr.write(`faultline: ${received}: stopped; nothing was left half-written.\n`);
    process.exitCode = 128 + constants.signals[received];
  } finally {
    for (const store of stores.values()) await store.close();
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}

/** The result on stdout, for machines or for people. */
export function printResult(flags: StoreFlags, result: unknown, text: string): void {
  process.stdout.write(flags.json ? `${JSON.stringify(result)}\n` : text);
}
