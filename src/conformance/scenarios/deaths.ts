/** The longer scenarios about the end of a VM or of a handler. */
import { setTimeout as delay } from "node:timers/promises";
import type { DialectName } from "../dialects.ts";
import { shuffled } from "../image.ts";
import { PROBE_PAGES, type Stage } from "../stage.ts";
import type { Vm } from "../vm.ts";
import { VmDied } from "../vm-process.ts";

/** How long a handler that goes on after SIGTERM is waited for, in case it ends soon after. */
const AFTERLIFE_MS = 700;

const THREADS = 16;

/** A VM is killed while the handler answers many threads of it. */
export async function diesAtWork(stage: Stage, dialect: DialectName): Promise<void> {
  const [vm, handler] = await stage.attachFrozen({ dialect });
  const reading = vm.read(shuffled(stage.image.pages), THREADS).catch(() => undefined);
  await vm.untilBlocked(THREADS, true);
  handler.thaw();
  await Promise.all([vm.kill(), reading]);
  await stage.expectLetGo("its VM was killed");
}

/**
 * The handler may serve on, or end and leave the VM frozen, or kill it. Pages that fault before, at
 * and after its end are looked at.
 */
export async function outlivesTermination(stage: Stage): Promise<void> {
  const vm = await stage.attach();
  await vm.expect([0], "file");
  const handler = await stage.handler();
  handler.signal("SIGTERM");
  try {
    await expectRightOrBlocked(vm, PROBE_PAGES, handler.ended(stage.deadlineMs));
    if ((await handler.ended(AFTERLIFE_MS)) === null) return;
    await expectRightOrBlocked(vm, [40, 900], delay(0));
  } catch (error) {
    if (!(error instanceof VmDied)) throw error;
  }
}

/** The pages come right, or else, when `over` has settled, all that did not come stay blocked. */
async function expectRightOrBlocked(
  vm: Vm,
  pages: readonly number[],
  over: Promise<unknown>,
): Promise<void> {
  const reading = vm.read(pages, pages.length);
  const stuck = over.then(async () => {
    // Whoever is still blocked proves it by faulting again.
    await vm.wake();
    await vm.untilBlocked(1, true);
    return null;
  });
  // The loser of the race has nobody waiting for it.
  reading.catch(() => undefined);
  stuck.catch(() => undefined);
  const result = await Promise.race([reading, stuck.catch(async () => await reading)]);
  if (result !== null) vm.assess(pages, result, "file", "after SIGTERM to the handler");
}
