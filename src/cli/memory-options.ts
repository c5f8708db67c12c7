/** Options of commands that open images: where these come from, and what is kept of them. */
import type { Command } from "commander";
import { GIB, MIB } from "../base/units.ts";
import { DEFAULT_CACHE_BYTES, DEFAULT_CACHE_FOLDER_BYTES } from "../daemon/served-memory.ts";
import { wholeNumber } from "./options.ts";

/** Where an image comes from, and what is kept of it. */
export function withImageOptions(command: Command): Command {
  return command
    .option("--store <place>", "where an image without a place is looked for (or FAULTLINE_STORE)")
    .option(
      "--cache-size <MiB>",
      "memory for decoded chunks of an image",
      wholeNumber("--cache-size", 4, 65_536),
      DEFAULT_CACHE_BYTES / MIB,
    )
    .option(
      "--cache-dir <folder>",
      "keep chunks of a store elsewhere on this host, verified at use",
    )
    .option(
      "--cache-dir-size <GiB>",
      "what --cache-dir may hold",
      wholeNumber("--cache-dir-size", 1, 65_536),
      DEFAULT_CACHE_FOLDER_BYTES / GIB,
    );
}
