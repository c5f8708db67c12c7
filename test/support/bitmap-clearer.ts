/**
 * A thread that clears every other bit of a userfault bitmap, one by one, when all threads are
 * ready. Tells how many of them were set.
 */
import { parentPort, workerData } from "node:worker_threads";
import { UserfaultBitmap } from "../../src/base/userfault-bitmap.ts";
import { viewOf } from "../../src/linux/memory.ts";

export interface ClearerData {
  /** The bitmap, and behind it one word in which threads count themselves. */
  readonly address: number;
  readonly bitmapBytes: number;
  readonly turn: number;
  readonly threadCount: number;
}

const { address, bitmapBytes, turn, threadCount } = workerData as ClearerData;
const bitmap = new UserfaultBitmap(viewOf(address, bitmapBytes));
const ready = new Uint32Array(viewOf(address + bitmapBytes, 4));
Atomics.add(ready, 0, 1);
while (Atomics.load(ready, 0) < threadCount);
let clearedCount = 0;
for (let page = turn; page < bitmap.pageLimit; page += threadCount) {
  clearedCount += bitmap.clear(page, page + 1);
}
parentPort!.postMessage(clearedCount);
