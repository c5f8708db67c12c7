/**
 * Programs of ours on a kernel with KVM Userfault, which test/peer/userfault-kernel.c plays on this
 * one: a shared object that is loaded before the program, and adds to KVM what it lacks.
 */
import { join } from "node:path";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { probeUserfault } from "../../src/linux/userfault-probe.ts";
import { requires } from "./requires.ts";

/** What the played kernel does wrong, or lacks. */
export type KernelMistake =
  | "ignores-bits"
  | "never-clear"
  | "no-flag"
  | "no-async"
  | "no-rings"
  | "no-write";

/** Options for `test`: it stands on guest_memfd that can be mapped. */
export function requiresUserfaultKernel(): { skip?: string } {
  const needs = requires("cc", "kvm", "userfaultfd");
  if (needs.skip !== undefined) return needs;
  const support = probeUserfault();
  if (support.kind === "userfault") return { skip: "this kernel has KVM Userfault itself" };
  if (!support.reason.includes("needs Linux 6.18")) return {};
  if (process.env.FAULTLINE_REQUIRE_ALL === "1") throw new Error(support.reason);
  return { skip: support.reason };
}

/** The environment in which a program finds KVM Userfault. */
export function userfaultEnvironment(mistake?: KernelMistake): NodeJS.ProcessEnv {
  const source = join(repositoryRoot, "test/peer/userfault-kernel.c");
  const shim = compile(source, ["-shared", "-fPIC", "-pthread"]);
  const planted = mistake === undefined ? {} : { FAULTLINE_USERFAULT_MISTAKE: mistake };
  return { ...process.env, LD_PRELOAD: shim, ...planted };
}
