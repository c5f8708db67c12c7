/** One viewer's map, as it changes: looked at only when he has read what he was told before. */
import type { EventStream } from "./event-stream.ts";
import { vmNumbers } from "./numbers.ts";
import type { CellChanges } from "./protocol.ts";
import type { WatchedVm } from "./source.ts";
import { VmMap, type WindowQuery } from "./vm-map.ts";

const CELLS_EVERY_MS = 50;
/** Numbers with every such look. */
const NUMBERS_EVERY = 10;

export interface MapViewer {
  /** He did not wait for his map: it is not made to its end. */
  readonly isGone: () => boolean;
  /** Called when nothing can be refused any more. */
  readonly open: () => EventStream;
  /** A look failed, and was the last. */
  readonly failed: (error: unknown) => void;
}

/** Returns when the stream is open, and goes on with it; or when the viewer is gone. */
export async function streamMap(
  vm: WatchedVm,
  query: WindowQuery,
  { isGone, open, failed }: MapViewer,
): Promise<void> {
  const map = await VmMap.open(vm, query, isGone);
  if (map === null) return;
  const snapshot = await map.snapshot();
  if (isGone()) return;
  const stream = open();
  stream.send("map", snapshot);
  const look = lookerAt(vm, map, stream);
  const timer = setInterval(() => {
    try {
      if (!look()) clearInterval(timer);
    } catch (error) {
      // What a viewer wants to see costs no VM its pager.
      clearInterval(timer);
      stream.end();
      failed(error);
    }
  }, CELLS_EVERY_MS);
  void stream.closed.then(() => clearInterval(timer));
}

/** Tells what has changed since the last look. False: that was all, as the VM has ended. */
function lookerAt(vm: WatchedVm, map: VmMap, stream: EventStream): () => boolean {
  let looks = 0;
  let areNumbersDue = true;
  return () => {
    const reason = vm.endReason();
    if (reason !== null) {
      stream.send("gone", { reason });
      stream.end();
      return false;
    }
    if (looks++ % NUMBERS_EVERY === 0) areNumbersDue = true;
    if (!stream.isReady) return true;
    const changes = map.changes();
    if (changes !== null) {
      const { count, runs } = changes;
      const afterMs = Math.max(0, Date.now() - vm.attachedMs);
      const cells: CellChanges = { afterMs, count, runs: Buffer.from(runs).toString("base64") };
      stream.send("cells", cells);
    }
    if (areNumbersDue) stream.send("numbers", vmNumbers(vm));
    areNumbersDue = false;
    return true;
  };
}
