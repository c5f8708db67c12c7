/** One viewer's map, as it changes: looked at only when he has read what he was told before. */
import type { EventStream } from "./event-stream.ts";
import { vmNumbers } from "./numbers.ts";
import type { CellChanges } from "./protocol.ts";
import type { WatchedVm } from "./source.ts";
import { VmMap, type WindowQuery } from "./vm-map.ts";

const CELLS_EVERY_MS = 50;
/** Numbers with every such look. */
const NUMBERS_EVERY = 10;

/** Prepares all that may be refused; `open` is called when nothing can be any more. */
export async function streamMap(
  vm: WatchedVm,
  query: WindowQuery,
  open: () => EventStream,
): Promise<void> {
  const map = await VmMap.open(vm, query);
  const snapshot = await map.snapshot();
  const stream = open();
  stream.send("map", snapshot);
  let looks = 0;
  let areNumbersDue = true;
  const timer = setInterval(() => {
    const reason = vm.endReason();
    if (reason !== null) {
      clearInterval(timer);
      stream.send("gone", { reason });
      stream.end();
      return;
    }
    if (looks++ % NUMBERS_EVERY === 0) areNumbersDue = true;
    if (!stream.isReady) return;
    const changes = map.changes();
    if (changes !== null) {
      const { count, runs } = changes;
      const afterMs = Math.max(0, Date.now() - vm.attachedMs);
      const cells: CellChanges = { afterMs, count, runs: Buffer.from(runs).toString("base64") };
      stream.send("cells", cells);
    }
    if (areNumbersDue) stream.send("numbers", vmNumbers(vm));
    areNumbersDue = false;
  }, CELLS_EVERY_MS);
  void stream.closed.then(() => clearInterval(timer));
}
