/**
 * What the next pager has to know of a session and no kernel can tell it: what it was asked for
 * (the record), and what its VM's handshake said (beside the session's counters and page states).
 * JSON in memfds that we have written ourselves, and check all the same.
 */
import { fstatSync, readSync, writeSync } from "node:fs";
import * as v from "valibot";
import { FaultlineError } from "../base/errors.ts";
import { errorPolicies } from "../engine/wire.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd } from "../linux/memory.ts";
import { RegionMap } from "../snapshot/regions.ts";
import { entryOf, type Keeper } from "./keeper.ts";
import { prefaultModes } from "./prefault-mode.ts";

const whole = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const owner = v.object({ uid: whole, gid: whole });

const record = v.object({
  id: v.string(),
  /** Known to the fault worker: names the session whose events it has read. */
  survivalId: whole,
  /** The entry with what its bytes come from. */
  memoryEntry: v.string(),
  /** As it was asked for. */
  memory: v.string(),
  layers: v.array(v.string()),
  onError: v.picklist(errorPolicies),
  prefault: v.picklist(prefaultModes),
  socketPath: v.string(),
  owner: v.nullable(owner),
  allowedUids: v.array(whole),
  connectWithinS: whole,
  recordForS: whole,
  /** Absent in records of earlier versions. */
  asyncFaults: v.optional(v.boolean(), false),
  trace: v.optional(v.boolean(), false),
  labels: v.record(v.string(), v.string()),
  createdMs: v.number(),
});
export type SessionRecord = v.InferOutput<typeof record>;

/** Of a VM with KVM Userfault, besides its descriptors. */
const userfault = v.object({
  guestAddresses: v.array(v.object({ gpa: whole, sizeBytes: whole, imageOffset: whole })),
  /** vCPUs that have rings. */
  ringCount: whole,
  hasAsyncSocket: v.boolean(),
});

const attachment = v.object({
  pid: whole,
  regions: v.pipe(v.unknown(), v.transform(RegionMap.fromJson)),
  attachedMs: v.number(),
  /** Which pager of this daemon has attached it: the first is 1. */
  generation: whole,
  /** Null: faults are events of the userfaultfd, and nothing else. */
  userfault: v.optional(v.nullable(userfault), null),
});
/** What the VM said, and when. */
export type Attachment = v.InferOutput<typeof attachment>;

const MAX_RECORD_BYTES = 1 << 20;

/** Whole, and then kept: the next pager finds this record or the one before. */
export function keepRecord(keeper: Keeper, values: SessionRecord): void {
  using memfd = createMemfd("faultline-session-record");
  const bytes = encodeJson(values);
  writeSync(memfd.fd, bytes, 0, bytes.length, 0);
  keeper.keep(entryOf(values.id, "record"), [memfd.fd]);
}

/** @throws FaultlineError `session-failed` */
export function readRecord(memfd: OwnedFd): SessionRecord {
  const { size } = fstatSync(memfd.fd);
  const bytes = new Uint8Array(Math.min(size, MAX_RECORD_BYTES));
  readSync(memfd.fd, bytes, 0, bytes.length, 0);
  return decode(record, bytes, "record");
}

export function encodeAttachment(values: Attachment): Uint8Array {
  return encodeJson({ ...values, regions: values.regions.toJson() });
}

/** @throws FaultlineError `session-failed` */
export function decodeAttachment(bytes: Uint8Array): Attachment {
  return decode(attachment, bytes, "attachment");
}

function encodeJson(values: object): Uint8Array {
  return Buffer.from(JSON.stringify(values));
}

function decode<const Schema extends v.GenericSchema>(
  schema: Schema,
  bytes: Uint8Array,
  what: string,
): v.InferOutput<Schema> {
  try {
    return v.parse(schema, JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch (cause) {
    throw new FaultlineError("session-failed", `The ${what} of a session cannot be read`, {
      cause,
    });
  }
}
