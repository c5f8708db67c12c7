/** Images for benchmarks: packed by the command, as users do. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { builtRoot } from "../kit/paths.ts";

/** Packs a memory file as `name` into a folder, and returns the command line. */
export function packImage(
  memoryPath: string,
  store: string,
  name: string,
  flags: readonly string[] = [],
): string {
  const main = join(builtRoot, "src", "cli", "main.js");
  const args = ["image", "pack", memoryPath, "--name", name, "--store", store, ...flags];
  execFileSync(process.execPath, [main, ...args, "--json"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  return ["faultline", ...args].join(" ");
}
