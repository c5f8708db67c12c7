/**
 * Reports on disk, so that they outlive the pager: a folder for each memory, a file for each
 * restore (`report-places.ts`). Bounded three ways; the oldest go first. They are only for people
 * to look at: what goes wrong here is told once, and concerns no VM.
 */
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describeError, FaultlineError } from "../../base/errors.ts";
import { formatBytes, MIB } from "../../base/units.ts";
import { diagnose } from "../../report/diagnose.ts";
import type { ReportSummary, RestoreReport } from "../../report/restore-report.ts";
import type { Logger } from "../log.ts";
import { findReports, inName, placeOf, removeFile, removeIfEmpty } from "./report-places.ts";
import { parseReport } from "./report-schema.ts";

export interface ReportBounds {
  readonly perMemory: number;
  readonly memories: number;
  readonly bytes: number;
}

export const DEFAULT_BOUNDS: ReportBounds = { perMemory: 16, memories: 64, bytes: 64 * MIB };
/** A report has some tens of KiB. What is larger was not written by us. */
const MAX_REPORT_BYTES = 4 * MIB;

interface Entry {
  readonly folder: string;
  readonly session: string;
  readonly connected: string;
  readonly sizeBytes: number;
  /** Since 1970; fractions tell reports of one millisecond apart. */
  readonly writtenMs: number;
  /** What was read of it before. */
  summary: ReportSummary | null;
}

export class ReportFiles {
  readonly #folder: string;
  readonly #bounds: ReportBounds;
  readonly #log: Logger;
  /** By path; null: nobody has looked yet what earlier processes have left. */
  #entries: Map<string, Entry> | null = null;
  /** One thing at a time: bounds are kept by counting. */
  #last: Promise<unknown> = Promise.resolve();
  #isFailing = false;

  constructor(folder: string, log: Logger, bounds: ReportBounds = DEFAULT_BOUNDS) {
    this.#folder = folder;
    this.#log = log;
    this.#bounds = bounds;
  }

  /** Whole or not at all. Its path; null: it could not be written, which the log tells once. */
  write(report: RestoreReport): Promise<string | null> {
    return this.#inTurn(async () => {
      try {
        const path = await this.#write(report);
        this.#isFailing = false;
        return path;
      } catch (error) {
        const fields = { folder: this.#folder, reason: describeError(error) };
        if (!this.#isFailing) this.#log.warn(fields, "Restore reports cannot be kept");
        this.#isFailing = true;
        return null;
      }
    });
  }

  /**
   * The newest of this session, as names are used again, or the one whose VM connected then. Null:
   * none is kept.
   * @throws FaultlineError `report-corrupt` it is, and cannot be understood
   */
  find(session: string, connectedAt: string | null = null): Promise<RestoreReport | null> {
    return this.#inTurn(async () => {
      const wanted = connectedAt === null ? null : inName(connectedAt);
      let newest: { readonly path: string; readonly connected: string } | null = null;
      for (const [path, { session: name, connected }] of await this.#look()) {
        if (name !== session || (wanted ?? connected) !== connected) continue;
        if (newest === null || connected > newest.connected) newest = { path, connected };
      }
      return newest === null ? null : await this.#read(newest.path);
    });
  }

  /** The newest first; of one memory, whatever its layers, or of all. */
  list(memory: string | null = null): Promise<ReportSummary[]> {
    return this.#inTurn(async () => {
      const summaries: ReportSummary[] = [];
      for (const [path, entry] of await this.#look()) {
        if (entry.summary === null) {
          const report = await this.#readAny(path);
          if (report !== null) entry.summary = summaryOf(report);
        }
        const { summary } = entry;
        if (summary !== null && (memory ?? summary.memory) === summary.memory) {
          summaries.push(summary);
        }
      }
      return summaries.sort((left, right) => (left.connectedAt < right.connectedAt ? 1 : -1));
    });
  }

  /** Everything that was begun is done. */
  async settled(): Promise<void> {
    await this.#last;
  }

  async #write(report: RestoreReport): Promise<string> {
    const entries = await this.#look();
    const { folder, name, stagedName } = placeOf(report);
    const place = join(this.#folder, folder);
    const path = join(place, name);
    const staged = join(place, stagedName);
    const json = `${JSON.stringify(report)}\n`;
    const options = { recursive: true, mode: 0o700 } as const;
    const isNew = (await mkdir(this.#folder, options)) !== undefined;
    try {
      await mkdir(place, options);
      await writeFile(staged, json, { mode: 0o600 });
      await rename(staged, path);
    } catch (error) {
      // Sessions need room on the same disk: folders without a report take none of it.
      await removeFile(staged);
      await removeIfEmpty(place);
      if (isNew) await removeIfEmpty(this.#folder);
      throw error;
    }
    entries.set(path, {
      ...{ folder, session: report.session, connected: inName(report.connectedAt) },
      sizeBytes: Buffer.byteLength(json),
      writtenMs: performance.timeOrigin + performance.now(),
      summary: summaryOf(report),
    });
    await this.#bound(entries);
    return path;
  }

  /** The oldest go: of each memory, of all memories, and of all bytes. */
  async #bound(entries: Map<string, Entry>): Promise<void> {
    const { perMemory, memories, bytes } = this.#bounds;
    const perFolder = new Map<string, number>();
    let sumBytes = 0;
    for (const [path, { folder, sizeBytes }] of newestFirst(entries)) {
      const kept = perFolder.get(folder) ?? 0;
      const isNewFolder = kept === 0;
      const isOver =
        kept >= perMemory ||
        (isNewFolder && perFolder.size >= memories) ||
        sumBytes + sizeBytes > bytes;
      if (isOver) {
        if (await removeFile(path)) entries.delete(path);
        // Its memory has no report any more.
        if (isNewFolder) await removeIfEmpty(join(this.#folder, folder));
        continue;
      }
      perFolder.set(folder, kept + 1);
      sumBytes += sizeBytes;
    }
  }

  async #look(): Promise<Map<string, Entry>> {
    if (this.#entries !== null) return this.#entries;
    const found = await findReports(this.#folder, (path, error) => {
      const reason = describeError(error);
      this.#log.debug({ path, reason }, "A folder of restore reports cannot be read");
    });
    const entries = new Map<string, Entry>(
      found.map(({ path, ...each }) => [path, { ...each, summary: null }]),
    );
    this.#entries = entries;
    return entries;
  }

  /** Null: it is gone, or no report. */
  async #readAny(path: string): Promise<RestoreReport | null> {
    try {
      return await this.#read(path);
    } catch (error) {
      this.#log.debug({ path, reason: describeError(error) }, "A restore report cannot be read");
      return null;
    }
  }

  /** Null: it is gone. */
  async #read(path: string): Promise<RestoreReport | null> {
    try {
      const { size: sizeBytes } = await stat(path);
      if (sizeBytes > MAX_REPORT_BYTES) throw new Error(`it has ${formatBytes(sizeBytes)}`);
      return parseReport(await readFile(path, "utf8"), path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      if (error instanceof FaultlineError) throw error;
      const reason = describeError(error);
      throw new FaultlineError(
        "report-corrupt",
        `The restore report ${path} cannot be read: ${reason}. Mend its rights, or remove it.`,
      );
    }
  }

  #inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

export function summaryOf(report: RestoreReport): ReportSummary {
  const { session, memory, layers, connectedAt, state, wallUs, waitedUs } = report;
  const finding = diagnose(report)[0]?.id ?? null;
  return { session, memory, layers, connectedAt, state, wallUs, waitedUs, finding };
}

function newestFirst(entries: ReadonlyMap<string, Entry>): [string, Entry][] {
  return [...entries].sort(([, left], [, right]) => right.writtenMs - left.writtenMs);
}
