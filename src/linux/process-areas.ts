/**
 * Which memory of another process is registered with a userfaultfd, by /proc/PID/smaps: `VmFlags`
 * has um (missing), uw (write protection), ui (minor). With which userfaultfd, nobody tells.
 */
import { readFileSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { KIB } from "../base/units.ts";

/** A mapping, or several next to each other that are alike. */
export interface RegisteredArea {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
  readonly pageSizeBytes: number;
  readonly isMissing: boolean;
  readonly isWriteProtect: boolean;
  readonly isMinor: boolean;
}

/**
 * Ascending. The kernel walks all pages of the process for it: some 10 ms a GiB that is there.
 * @throws FaultlineError `no-process-access`, `rescue-refused`: it is gone
 */
export function registeredAreas(pid: number): RegisteredArea[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/smaps`, "latin1");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const isDenied = code === "EACCES" || code === "EPERM";
    throw isDenied
      ? new FaultlineError(
          "no-process-access",
          `The mappings of process ${pid} may not be read. Run as root or with CAP_SYS_PTRACE`,
          { cause },
        )
      : new FaultlineError("rescue-refused", `Process ${pid} has ended.`, { cause });
  }
  return parseSmaps(text);
}

/** PURE. */
export function parseSmaps(text: string): RegisteredArea[] {
  const areas: RegisteredArea[] = [];
  let [start, end, pageSizeBytes] = [0, 0, 0];
  for (const line of text.split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) {
      [start, end] = [Number.parseInt(range[1]!, 16), Number.parseInt(range[2]!, 16)];
    } else if (line.startsWith("KernelPageSize:")) {
      pageSizeBytes = Number(/\d+/.exec(line)?.[0]) * KIB;
    } else if (line.startsWith("VmFlags:")) {
      const flags = new Set(line.slice("VmFlags:".length).trim().split(/\s+/));
      const [isMissing, isWriteProtect, isMinor] = ["um", "uw", "ui"].map((flag) =>
        flags.has(flag),
      ) as [boolean, boolean, boolean];
      if (isMissing || isWriteProtect || isMinor) {
        addArea(areas, { start, end, pageSizeBytes, isMissing, isWriteProtect, isMinor });
      }
    }
  }
  return areas;
}

/** One memory may be several mappings: part of it was given other advice, or another protection. */
function addArea(areas: RegisteredArea[], area: RegisteredArea): void {
  const last = areas.at(-1);
  if (last === undefined || last.end !== area.start || !isAlike(last, area)) areas.push(area);
  else areas[areas.length - 1] = { ...last, end: area.end };
}

function isAlike(one: RegisteredArea, other: RegisteredArea): boolean {
  return (
    one.pageSizeBytes === other.pageSizeBytes &&
    one.isMissing === other.isMissing &&
    one.isWriteProtect === other.isWriteProtect &&
    one.isMinor === other.isMinor
  );
}
