/**
 * Where reports lie in their folder, and which of the files there are ours. The folder is named by
 * people, and may hold anything: only names that no one else gives are looked at, or removed.
 *
 *     FOLDER / HASH-OF-MEMORY / SESSION.CONNECTED.json
 *
 * CONNECTED is the time of the VM's connection, as sessions' names and process ids are used again:
 * 20261124T020000123Z. A file that is being written has a dot before its name, and the writer's
 * process id after it.
 */
import { createHash } from "node:crypto";
import { lstat, readdir, rmdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { assert } from "../../base/assert.ts";
import type { RestoreReport } from "../../report/restore-report.ts";

const HASH_CHARACTERS = 16;
const FOLDER = /^[0-9a-f]{16}$/;
const NAME = String.raw`([a-z0-9][a-z0-9-]{0,63})\.(\d{8}T\d{9}Z)\.json`;
const REPORT = new RegExp(`^${NAME}$`);
const STAGED = new RegExp(String.raw`^\.${NAME}\.\d{1,10}$`);
/** What is not finished after this long never will be. */
const STAGED_MS = 60_000;

/** Below the folder of all reports. */
export interface ReportPlace {
  readonly folder: string;
  readonly name: string;
  readonly stagedName: string;
}

export interface FoundReport {
  readonly folder: string;
  readonly path: string;
  readonly session: string;
  /** As in its name, which sorts as the times do. */
  readonly connected: string;
  readonly sizeBytes: number;
  readonly writtenMs: number;
}

export function placeOf({ memory, layers, session, connectedAt }: RestoreReport): ReportPlace {
  const words = JSON.stringify([memory, ...layers]);
  const folder = createHash("sha256").update(words).digest("hex").slice(0, HASH_CHARACTERS);
  const name = `${session}.${inName(connectedAt)}.json`;
  assert(REPORT.test(name), "a report's name is known again");
  return { folder, name, stagedName: `.${name}.${process.pid}` };
}

/** An ISO 8601 time, in UTC, as it is in a report's name. */
export function inName(connectedAt: string): string {
  return connectedAt.replaceAll(/[-:.]/g, "");
}

/** `onError`: what is wrong with one folder does not keep from the others. */
export async function findReports(
  root: string,
  onError: (path: string, error: unknown) => void,
): Promise<FoundReport[]> {
  const found: FoundReport[] = [];
  for (const folder of await foldersIn(root)) {
    try {
      found.push(...(await reportsIn(root, folder)));
    } catch (error) {
      onError(join(root, folder), error);
    }
  }
  return found;
}

/** False: it is still there. */
export async function removeFile(path: string): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
}

/** One with anything in it stays, whosever that is. */
export async function removeIfEmpty(folder: string): Promise<void> {
  await rmdir(folder).catch(() => undefined);
}

/** None if there is no such folder yet. */
async function foldersIn(root: string): Promise<string[]> {
  try {
    const entries = await readdir(root, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory() && FOLDER.test(entry.name))
      .map(({ name }) => name);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw error;
  }
}

async function reportsIn(root: string, folder: string): Promise<FoundReport[]> {
  const found: FoundReport[] = [];
  for (const entry of await readdir(join(root, folder), { withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(root, folder, entry.name);
    const [, session, connected] = REPORT.exec(entry.name) ?? [];
    const isReport = session !== undefined && connected !== undefined;
    if (!isReport && !STAGED.test(entry.name)) continue;
    // Other processes may write to this folder, and remove from it.
    const stats = await lstat(path).catch(() => null);
    if (stats === null) continue;
    const { size: sizeBytes, mtimeMs: writtenMs } = stats;
    if (isReport) found.push({ folder, path, session, connected, sizeBytes, writtenMs });
    // Somebody may be writing it just now; otherwise he has died of it.
    else if (Date.now() - writtenMs > STAGED_MS) await removeFile(path);
  }
  return found;
}
