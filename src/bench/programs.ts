/**
 * The C programs of a run: guests and the reference handler. The package holds them as source and
 * each run builds what it uses, in its own folder: an installed package may not be writable.
 */
import { join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { findCompiler, runCompiler } from "../kit/compile.ts";
import { repositoryRoot } from "../kit/paths.ts";

export type ProgramName =
  | "handler"
  | "faulter"
  | "replayer"
  | "restorer"
  | "vms"
  | "userfault-bench-vm"
  | "userfault-fast-handler";

const sources = join(repositoryRoot, "bench", "reference");

/** Throws `no-compiler` with what to do. */
export function requireCompiler(): string {
  const compiler = findCompiler();
  if (compiler !== null) return compiler;
  throw new FaultlineError(
    "no-compiler",
    "Guests and reference handler are C programs, and there is no cc or gcc on PATH: install one " +
      "(apt-get install gcc libc6-dev linux-libc-dev).",
  );
}

/** Builds one program; returns the path of the binary. Throws `no-compiler` if that fails. */
export function buildProgram(name: ProgramName, folder: string): string {
  const compiler = requireCompiler();
  const binary = join(folder, name);
  const source = join(sources, `${name}.c`);
  const options = ["-O2", "-Wall", "-Wextra", "-pthread", "-o", binary, source];
  const { isGood, messages } = runCompiler(options);
  if (isGood) return binary;
  throw new FaultlineError(
    "no-compiler",
    `${compiler} cannot build ${source}: are the headers of C library and kernel installed ` +
      `(apt-get install libc6-dev linux-libc-dev)? It said:\n${messages}`,
  );
}
