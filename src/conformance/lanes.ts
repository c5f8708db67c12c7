/** Work on a list by several threads at once, given up when nothing has moved for a while. */

/** How often progress is looked at; short against any deadline. */
const CHECK_EVERY_MS = 20;

/**
 * Calls `work` for each index below `count`, in order, in `laneCount` lanes. Returns how many are
 * done: fewer than `count` if for `stallMs` none was. What is under way then stays under way.
 */
export async function runLanes(
  count: number,
  laneCount: number,
  stallMs: number,
  work: (index: number, lane: number) => Promise<void>,
): Promise<number> {
  let next = 0;
  let done = 0;
  let isOver = false;
  let movedMs = performance.now();
  const lane = async (number: number): Promise<void> => {
    while (next < count && !isOver) {
      await work(next++, number);
      done += 1;
      movedMs = performance.now();
    }
  };
  const all = Promise.all(Array.from({ length: Math.min(laneCount, count) }, (_, i) => lane(i)));
  const stalled = new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      if (performance.now() - movedMs > stallMs) isOver = true;
      if (!isOver) return;
      clearInterval(timer);
      resolve();
    }, CHECK_EVERY_MS);
  });
  try {
    await Promise.race([all, stalled]);
  } finally {
    isOver = true;
  }
  return done;
}
