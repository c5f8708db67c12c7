/** C programs for tests, built once per change of their source. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync, statSync, writeFileSync } from "node:fs";
import { basename, delimiter, dirname, extname, join } from "node:path";
import { builtRoot } from "./paths.ts";

const cacheFolder = join(builtRoot, ".cache");

/** The first C compiler on PATH, or null. */
export function findCompiler(): string | null {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of ["cc", "gcc"]) {
      if (existsSync(join(folder, name))) return join(folder, name);
    }
  }
  return null;
}

/** Runs the compiler and returns what it printed on stderr; throws only if there is none. */
export function runCompiler(options: readonly string[]): { isGood: boolean; messages: string } {
  const compiler = findCompiler();
  if (compiler === null) throw new Error("There is no cc or gcc on PATH: apt-get install gcc");
  // The messages are parsed by some callers: in English, and without colours.
  const environment = { ...process.env, LC_ALL: "C" };
  const child = spawnSync(compiler, options, { encoding: "utf8", env: environment });
  if (child.error !== undefined) throw child.error;
  return { isGood: child.status === 0, messages: child.stderr };
}

/**
 * Compiles a C file (`-O2 -Wall`), unless its binary is newer than it and the headers beside it;
 * returns the path of the binary.
 */
export function compile(sourcePath: string, options: readonly string[] = []): string {
  const key = hashOf([sourcePath, ...options].join("\0"));
  const binary = join(cacheFolder, `${basename(sourcePath, ".c")}-${key}`);
  if (existsSync(binary) && statSync(binary).mtimeMs > changedMs(sourcePath)) return binary;
  mkdirSync(cacheFolder, { recursive: true });
  // Test files run side by side: build under a name of our own, then put it in place at once.
  const draft = `${binary}.${process.pid}`;
  const { isGood, messages } = runCompiler(["-O2", "-Wall", "-o", draft, sourcePath, ...options]);
  if (!isGood) throw new Error(`${sourcePath} does not compile:\n${messages}`);
  renameSync(draft, binary);
  return binary;
}

function changedMs(sourcePath: string): number {
  const folder = dirname(sourcePath);
  const headers = readdirSync(folder).filter((name) => name.endsWith(".h"));
  const files = [sourcePath, ...headers.map((name) => join(folder, name))];
  return Math.max(...files.map((path) => statSync(path).mtimeMs));
}

/** Writes generated C into the cache folder under a name that follows from it; returns its path. */
export function writeSource(name: string, text: string): string {
  const path = join(
    cacheFolder,
    `${basename(name, extname(name))}-${hashOf(text)}${extname(name)}`,
  );
  mkdirSync(cacheFolder, { recursive: true });
  if (!existsSync(path)) writeFileSync(path, text);
  return path;
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 12);
}
