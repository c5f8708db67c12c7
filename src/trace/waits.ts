/**
 * Puts together what a recording has apart: that a page was asked for, and that it was installed.
 * PURE.
 */
import type { Recording } from "./recording.ts";

/** Installations that end waits. */
const ANSWERS: readonly string[] = ["copy", "zero"];

/** Numbers of records. */
export interface Wait {
  readonly page: number;
  readonly demand: number;
  /** Null: it never was, as far as this is known. */
  readonly answer: number | null;
}

export interface WaitWatcher {
  /** A page is asked for that nobody waits for. */
  begins?(demand: number): void;
  ends(wait: Wait): void;
}

/** Tells of every wait in the order of the records; at last of those that have no end. */
export function followWaits({ header, records }: Recording, watcher: WaitWatcher): void {
  const demandKind = header.kinds.indexOf("demand");
  const isAnswer = header.kinds.map((name) => ANSWERS.includes(name));
  const open = new Map<number, number>();
  for (let index = 0; index < records.count; index++) {
    const kind = records.kinds[index]!;
    const first = records.pages[index]!;
    if (kind === demandKind) {
      if (open.has(first)) continue;
      open.set(first, index);
      watcher.begins?.(index);
    } else if (isAnswer[kind] === true) {
      const end = first + records.pageCounts[index]!;
      for (let page = first; page < end && open.size > 0; page++) {
        const demand = open.get(page);
        if (demand === undefined) continue;
        open.delete(page);
        watcher.ends({ page, demand, answer: index });
      }
    }
  }
  for (const [page, demand] of open) watcher.ends({ page, demand, answer: null });
}
