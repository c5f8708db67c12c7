/** A VM with KVM Userfault that times its handler: bench/reference/userfault-bench-vm.c. */
import { Child } from "../../kit/child.ts";
import type { HandlerProcess } from "../../kit/handler-process.ts";
import { answerOf, assertRight } from "../guests.ts";
import type { Workspace } from "../workspace.ts";

/** See the program. */
export interface UserfaultTimes {
  readonly faults: number;
  readonly vcpus: number;
  readonly p50_us: number;
  readonly p90_us: number;
  readonly p99_us: number;
  readonly total_ms: number;
  readonly faults_per_s: number;
  readonly mismatches: number;
}

interface Place {
  readonly memoryPath: string;
  /** Of all its threads; null: not pinned. */
  readonly cpu: number | null;
}

export interface DemandPlan extends Place {
  readonly way: "sync" | "ring";
  readonly faults: number;
  readonly seed: number;
  /** More than one only by rings. */
  readonly vcpus: number;
}

/** Nobody asks: the handler is to install all memory by itself. */
export interface AheadPlan extends Place {
  readonly way: "prefault";
}

/**
 * Runs one VM to its end. Throws `handler-failed` if it got no answer, or if a single byte was
 * wrong: then no number counts.
 */
export async function timeUserfaults(
  workspace: Workspace,
  handler: HandlerProcess,
  plan: DemandPlan | AheadPlan,
): Promise<UserfaultTimes> {
  const { way, memoryPath, cpu } = plan;
  await using vm = new Child([
    workspace.program("userfault-bench-vm"),
    ...[handler.target.socketPath, memoryPath, way],
    ...(plan.way === "prefault" ? [] : demandWords(plan)),
    ...(cpu === null ? [] : ["--cpu", String(cpu)]),
  ]);
  const times = await answerOf<UserfaultTimes>(vm, handler);
  assertRight(times, handler);
  await vm.finish();
  return times;
}

function demandWords({ faults, seed, vcpus }: DemandPlan): string[] {
  return [String(faults), "--seed", String(seed), "--vcpus", String(vcpus)];
}
