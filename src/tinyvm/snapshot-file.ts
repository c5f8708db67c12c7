/**
 * A snapshot on disk: the memory file (regions one after the other, without a header; pages of
 * zeroes are holes) and the state file (JSON: what the guest was, and where its vCPU stands).
 */
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { kvm_regs, kvm_sregs } from "../linux/abi-kvm.ts";
import type { VcpuState } from "./guest.ts";
import type { GuestMemory, MappedGuestRegion } from "./guest-memory.ts";
import type { GuestOptions } from "./guest-plan.ts";

const FORMAT = "tinyvm-state-1";
const PAGE_WORDS = SMALL_PAGE_BYTES / 4;
/** One write(2) takes at most 2 GiB; this much keeps Ctrl-C prompt. */
const WRITE_BYTES_MAX = 16 * MIB;

export interface SnapshotPaths {
  readonly memoryFile: string;
  readonly stateFile: string;
}

/** What the guest says after a restore, if its memory is right. */
export interface ExpectedSums {
  readonly checksum: string;
  readonly afterWrite: string;
}

export interface SnapshotState {
  readonly options: GuestOptions;
  /** Null: taken from a process guest; only such a guest can go on with it. */
  readonly vcpu: VcpuState | null;
  readonly expected: ExpectedSums;
}

export function snapshotPaths(folder: string): SnapshotPaths {
  return { memoryFile: join(folder, "memory"), stateFile: join(folder, "state.json") };
}

/** Creates the folder, and takes the state file of an older snapshot away: it ends the old one. */
export function prepareFolder(folder: string): SnapshotPaths {
  const paths = snapshotPaths(folder);
  mkdirSync(folder, { recursive: true });
  rmSync(paths.stateFile, { force: true });
  return paths;
}

/** Appears under its name only when it is complete. */
export function writeMemoryFile(path: string, memory: GuestMemory): void {
  const partial = `${path}.partial`;
  const fd = openSync(partial, "w");
  try {
    for (const region of memory.regions) writeRegion(fd, region);
    ftruncateSync(fd, memory.sizeBytes);
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** Written last: a folder with a state file holds a whole snapshot. */
export function writeState(path: string, state: SnapshotState): void {
  const partial = `${path}.partial`;
  writeFileSync(partial, `${JSON.stringify({ format: FORMAT, ...state }, null, 2)}\n`);
  renameSync(partial, path);
}

/** @throws FaultlineError `bad-option` */
export function readState(folder: string): SnapshotState {
  const path = snapshotPaths(folder).stateFile;
  let state: unknown;
  try {
    state = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new FaultlineError(
      "bad-option",
      `--dir ${folder} holds no readable snapshot. Make one: tinyvm boot --out ${folder}`,
      { cause },
    );
  }
  if (!isState(state)) {
    throw new FaultlineError(
      "bad-option",
      `${path} is not a state file of this tinyvm (${FORMAT}). Boot a new snapshot.`,
    );
  }
  return state;
}

/** The ranges of the options are `planGuest`'s affair. */
function isState(value: unknown): value is SnapshotState {
  const state = value as Partial<SnapshotState & { format: string }> | null;
  return (
    state?.format === FORMAT &&
    typeof state.options === "object" &&
    typeof state.expected?.checksum === "string" &&
    typeof state.expected.afterWrite === "string" &&
    (state.vcpu === null ||
      (isHexOf(state.vcpu?.registers, kvm_regs.size) &&
        isHexOf(state.vcpu?.systemRegisters, kvm_sregs.size)))
  );
}

function isHexOf(value: unknown, sizeBytes: number): boolean {
  return typeof value === "string" && Buffer.from(value, "hex").length === sizeBytes;
}

/** Writes runs of pages that are not zero, each to its place. */
function writeRegion(fd: number, region: MappedGuestRegion): void {
  const view = region.mapping.view();
  const words = new Uint32Array(view);
  const bytes = new Uint8Array(view);
  let runStart = -1;
  for (let position = 0; position < region.sizeBytes; position += SMALL_PAGE_BYTES) {
    const isZero = isZeroPage(words, position / 4);
    if (!isZero && runStart === -1) runStart = position;
    if (runStart === -1) continue;
    if (!isZero && position - runStart < WRITE_BYTES_MAX) continue;
    writeFully(fd, bytes.subarray(runStart, position), region.fileOffset + runStart);
    runStart = isZero ? -1 : position;
  }
  if (runStart !== -1) writeFully(fd, bytes.subarray(runStart), region.fileOffset + runStart);
}

function isZeroPage(words: Uint32Array, first: number): boolean {
  for (let index = first; index < first + PAGE_WORDS; index++) {
    if (words[index] !== 0) return false;
  }
  return true;
}

function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  let done = 0;
  while (done < bytes.length) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}
