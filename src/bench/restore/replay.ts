/** Guests that replay a trace: bench/reference/replayer.c, run to its end. */
import { Child } from "../../kit/child.ts";
import type { HandlerProcess } from "../../kit/handler-process.ts";
import { answerOf, assertRight } from "../guests.ts";
import type { Workspace } from "../workspace.ts";

/** A far store is asked for one chunk after the other, for minutes. */
const ANSWER_DEADLINE_MS = 600_000;

/** See bench/reference/replayer.c. */
export interface ReplayTimes {
  readonly vms: number;
  readonly touches: number;
  /** Of each VM. */
  readonly working_set_ms: readonly number[];
  readonly stall_ms: readonly number[];
  /** Of all touches, at `touchShares` of the report. */
  readonly quantiles_us: readonly number[];
  readonly mismatches: number;
}

export interface ReplayPlan {
  /** The touches as the program reads them. */
  readonly touchesPath: string;
  readonly memoryPath: string;
  readonly pageSizeBytes: number;
  readonly vms: number;
  /** VMs wait until their handler says that they are prefaulted. */
  readonly isHeld: boolean;
  readonly doWrite: boolean;
}

/**
 * One handler for all VMs, one for each, or none: then memory is a mapping. Throws `handler-failed`
 * if a VM got no answer or a wrong one.
 */
export async function replay(
  workspace: Workspace,
  handlers: readonly HandlerProcess[],
  plan: ReplayPlan,
): Promise<ReplayTimes> {
  const sockets = handlers.map(({ target }) => target.socketPath);
  await using guests = new Child([
    workspace.program("replayer"),
    ...[plan.touchesPath, plan.memoryPath, String(plan.vms)],
    ...["--page-size", String(plan.pageSizeBytes)],
    ...(plan.isHeld ? ["--held"] : []),
    ...(plan.doWrite ? ["--write"] : []),
    ...(sockets.length === 0 ? ["--mapping"] : sockets),
  ]);
  const handler = handlers[0] ?? null;
  if (plan.isHeld && handler !== null) {
    handler.onPrinted = (line) => {
      const pid = /^prefaulted: (\d+) /.exec(line)?.[1];
      if (pid !== undefined) guests.say(`resume ${pid}`);
    };
  }
  const times = await answerOf<ReplayTimes>(guests, handler, ANSWER_DEADLINE_MS);
  assertRight(times, handler);
  await guests.finish();
  return times;
}
