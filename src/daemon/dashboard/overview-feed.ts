/**
 * The overview, looked at once for all viewers: each part of it, and each session's row, with the
 * number of the look in which it has changed last. A viewer who was told of look `n` is told of all
 * that has changed after it. Nothing is looked at while nobody watches.
 */
import { overviewNumbers } from "./numbers.ts";
import type { Overview, OverviewUpdate, SessionRow } from "./protocol.ts";
import type { DashboardSource, ListedSession } from "./source.ts";

/** Sessions that have ended while somebody watched stay for so many others that do. */
const MAX_ENDED = 32;
/**
 * Rows that are made anew in one look; of more, those that were told of longest ago. A row takes
 * some 20 µs, and VMs wait for this thread.
 */
const MAX_CHANGED = 250;
/** Of sessions that are gone so many are remembered: who is further behind begins anew. */
const MAX_GONE = 1024;

interface Row {
  version: string;
  row: SessionRow;
  changedAt: number;
}

type Part = Exclude<keyof Overview, "sessions">;
const parts = ["host", "numbers", "images", "stores", "cache"] as const satisfies readonly Part[];

export class OverviewFeed {
  /** Of the last look. */
  at = 0;
  readonly #source: DashboardSource;
  readonly #rows = new Map<string, Row>();
  readonly #ended: string[] = [];
  readonly #gone: { readonly id: string; readonly goneAt: number }[] = [];
  /** Up to this look, `#gone` is not whole. */
  #forgottenAt = 0;
  readonly #texts = new Map<Part, { text: string; changedAt: number }>();
  #now: Omit<Overview, "sessions"> | null = null;

  constructor(source: DashboardSource) {
    this.#source = source;
  }

  look(): void {
    this.at += 1;
    const listed = new Set<string>();
    const changed: ListedSession[] = [];
    for (const session of this.#source.sessions()) {
      listed.add(session.id);
      const known = this.#rows.get(session.id);
      if (known === undefined) this.#tell(session);
      else if (known.version !== session.version) changed.push(session);
    }
    if (changed.length > MAX_CHANGED) {
      const toldAt = ({ id }: ListedSession): number => this.#rows.get(id)!.changedAt;
      changed.sort((a, b) => toldAt(a) - toldAt(b));
    }
    for (const session of changed.slice(0, MAX_CHANGED)) this.#tell(session);
    for (const [id, row] of this.#rows) {
      if (!listed.has(id) && row.row.state !== "ended") this.#end(id, row);
    }
    while (this.#ended.length > MAX_ENDED) this.#forget(this.#ended.shift()!);
    this.#lookAtParts();
  }

  /** All that there is. */
  all(): Overview {
    return { ...this.#now!, sessions: [...this.#rows.values()].map(({ row }) => row) };
  }

  /** What has changed since look `told`. Null: nothing; `all` to one who is too far behind. */
  since(told: number): OverviewUpdate | null | "all" {
    if (told < this.#forgottenAt) return "all";
    const update: Record<string, unknown> = {};
    for (const part of parts) {
      if (this.#texts.get(part)!.changedAt > told) update[part] = this.#now![part];
    }
    const changed = [...this.#rows.values()].filter(({ changedAt }) => changedAt > told);
    if (changed.length > 0) update.sessions = changed.map(({ row }) => row);
    // An id may be used again.
    const gone = this.#gone.filter(({ id, goneAt }) => goneAt > told && !this.#rows.has(id));
    if (gone.length > 0) update.gone = gone.map(({ id }) => id);
    return Object.keys(update).length === 0 ? null : update;
  }

  #tell(session: ListedSession): void {
    const { id, version } = session;
    this.#rows.set(id, { version, row: session.row(), changedAt: this.at });
  }

  #end(id: string, row: Row): void {
    const endReason = this.#source.endReason(id);
    row.row = { ...row.row, state: "ended", waitsFor: null, endReason };
    row.version = "ended";
    row.changedAt = this.at;
    this.#ended.push(id);
  }

  #forget(id: string): void {
    // It may have come back since.
    if (this.#rows.get(id)?.row.state !== "ended" || this.#ended.includes(id)) return;
    this.#rows.delete(id);
    this.#gone.push({ id, goneAt: this.at });
    if (this.#gone.length > MAX_GONE) this.#forgottenAt = this.#gone.shift()!.goneAt;
  }

  #lookAtParts(): void {
    const source = this.#source;
    const now = {
      host: source.host(),
      numbers: overviewNumbers(source),
      images: source.images(),
      stores: source.stores(),
      cache: source.cache(),
    };
    for (const part of parts) {
      const value = now[part];
      // The time alone is no news.
      const text = JSON.stringify(part === "numbers" ? { ...value, atMs: 0 } : value);
      if (this.#texts.get(part)?.text === text) continue;
      this.#texts.set(part, { text, changedAt: this.at });
    }
    this.#now = now;
  }
}
