/** What the image commands have in common: options, stores that get closed, Ctrl-C. */
import { availableParallelism, constants } from "node:os";
import type { Command } from "commander";
import { defaultStore, openStore, parseImageReference } from "../source/image-reference.ts";
import type { ObjectStore } from "../source/object-store.ts";
import { openImage, type StoredImage } from "../source/stored-image.ts";
import { wholeNumber } from "./options.ts";

const MAX_JOBS = 64;

export interface StoreFlags {
  readonly store?: string;
  readonly json: boolean;
}

export function withStoreOptions(command: Command): Command {
  return command
    .option("--store <store>", "the folder of images (default: $FAULTLINE_STORE)")
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
  /** The store that the options name. */
  store(options?: { readonly create?: boolean }): ObjectStore;
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
  const open = (reference: string, options: { readonly create?: boolean } = {}): ObjectStore => {
    const known = stores.get(reference);
    if (known !== undefined) return known;
    const store = openStore(reference, options);
    stores.set(reference, store);
    return store;
  };
  const { signal } = interrupt;
  try {
    await work({
      signal,
      store: (options) => open(defaultStore(flags.store), options),
      image: async (reference) => {
        const { store, name } = parseImageReference(reference);
        return await openImage(open(store ?? defaultStore(flags.store)), name, signal);
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
