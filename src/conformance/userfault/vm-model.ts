/**
 * Runs the model of a VM with KVM Userfault (bench/reference/userfault-vm.c), which is both VMM and
 * kernel: no released kernel has the feature. It is C because its threads look at shared memory
 * while the handler changes it, which is the very thing that is to be judged.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FaultlineError } from "../../base/errors.ts";
import { Child } from "../../kit/child.ts";
import { findCompiler, runCompiler } from "../../kit/compile.ts";
import { repositoryRoot } from "../../kit/paths.ts";
import { Finding } from "../finding.ts";
import type { Stage } from "../stage.ts";

const source = join(repositoryRoot, "bench", "reference", "userfault-vm.c");
/** The whole of a scenario, beyond the model's own deadline for each answer. */
const PLAY_MS = 60_000;
const SEED = 1;

/** As `playModel`, with a VM that dies at the end of it: the handler has to let go. */
export async function playDyingModel(stage: Stage, scenario: string): Promise<void> {
  await playModel(stage, scenario);
  await stage.expectLetGo("its VM was killed");
}

/** @throws Finding what the model says is wrong with the handler */
export async function playModel(stage: Stage, scenario: string): Promise<void> {
  const binary = builtModel();
  await stage.handler();
  const deadlineS = String(Math.ceil(stage.deadlineMs / 1000));
  const words = [stage.socketPath, stage.image.path, scenario, String(SEED), deadlineS];
  await using model = new Child([binary, ...words]);
  const verdict = await model.line(PLAY_MS + stage.deadlineMs);
  if (verdict.startsWith("ok ")) return;
  const what = verdict.replace(/^FAIL /, "");
  throw new Finding(`${what[0]!.toUpperCase()}${what.slice(1)}.`);
}

let built: string | null = null;

/** Once for all scenarios of a run, in a folder that goes with the process. */
function builtModel(): string {
  if (built !== null) return built;
  if (findCompiler() === null) throw refusal("there is no cc or gcc on PATH");
  const folder = mkdtempSync(join(tmpdir(), "faultline-userfault-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const binary = join(folder, "userfault-vm");
  const options = ["-O2", "-Wall", "-Wextra", "-pthread", "-o", binary, source];
  const { isGood, messages } = runCompiler(options);
  if (!isGood) throw refusal(`the compiler said:\n${messages}`);
  built = binary;
  return binary;
}

function refusal(why: string): FaultlineError {
  return new FaultlineError(
    "no-compiler",
    `The model of KVM Userfault is a C program, and it cannot be built: ${why}. Install ` +
      "a compiler (apt-get install gcc libc6-dev linux-libc-dev).",
  );
}
