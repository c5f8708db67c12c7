/** The files of this repository, as the tidy tests see them. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { repositoryRoot } from "../../src/kit/paths.ts";
import type { Files } from "./imports.ts";

const CODE_FOLDERS = ["src", "test", "bench", "examples", "scripts", "dashboard"];
const IGNORED_FOLDERS = /^(?:\.git|node_modules|dist|\.cache)(?:\/|$)/;

/** Everything that is or would be committed; without git, everything that is not built. */
export function repositoryFiles(): string[] {
  const options = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
  const git = spawnSync("git", options, { cwd: repositoryRoot, encoding: "utf8" });
  const names =
    git.status === 0
      ? git.stdout.split("\0").filter((name) => name !== "")
      : readdirSync(repositoryRoot, { recursive: true, encoding: "utf8" });
  return names.filter((name) => !IGNORED_FOLDERS.test(name) && isFile(name)).sort();
}

function isFile(name: string): boolean {
  // A file that git knows may be deleted in the work tree.
  return statSync(join(repositoryRoot, name), { throwIfNoEntry: false })?.isFile() === true;
}

export function readRepositoryFile(name: string): string {
  return readFileSync(join(repositoryRoot, name), "utf8");
}

/** Our TypeScript, by path. */
export function typescriptFiles(): Files {
  const isCode = (name: string): boolean =>
    name.endsWith(".ts") && CODE_FOLDERS.includes(name.split("/")[0]!);
  const names = repositoryFiles().filter(isCode);
  return new Map(names.map((name) => [name, readRepositoryFile(name)]));
}

/** The files of `files` that lie in `folder`. */
export function inFolder(files: Files, folder: string): Files {
  return new Map([...files].filter(([name]) => name.startsWith(`${folder}/`)));
}

/** Fails with the violations, one a line. */
export function assertNone(violations: readonly string[]): void {
  if (violations.length > 0) throw new Error(`The tree is not tidy:\n${violations.join("\n")}`);
}
