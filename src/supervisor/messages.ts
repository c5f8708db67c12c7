/**
 * What the supervisor and a pager tell each other: one JSON object per packet, descriptors beside
 * it. Whoever receives checks everything, as a message that is wrong is a bug of ours and must not
 * become a wrong descriptor in the hands of a VM. PURE.
 */

/** The environment variable that names the descriptor of the channel, for the pager. */
export const CHANNEL_VARIABLE = "FAULTLINE_CHANNEL";
/** Set for a pager that nobody waits for: `PagerChannel.isOnTrial`. */
export const TRIAL_VARIABLE = "FAULTLINE_ON_TRIAL";
/**
 * A VM with KVM Userfault and 32 vCPUs: three as any VM, its guest_memfd and bitmap, three a vCPU.
 * In one entry, so that it is there as a whole or not at all.
 */
export const MAX_FDS_PER_ENTRY = 3 + 2 + 3 * 32;
/** One of the largest entries fits; far below what the kernel passes at once (253). */
const MAX_FDS_PER_PACKET = 128;
const NAME = /^[A-Za-z0-9._-]{1,128}$/;

export type PagerMessage =
  | { readonly type: "standingBy" }
  /** The next batch of entries, please: the supervisor never sends more than was asked for. */
  | { readonly type: "next" }
  | { readonly type: "serving" }
  | { readonly type: "keep"; readonly name: string }
  | { readonly type: "drop"; readonly name: string }
  | { readonly type: "accept"; readonly listener: string; readonly connection: string }
  | { readonly type: "alive" }
  | { readonly type: "reload" }
  | { readonly type: "finished" };

export interface EntryHead {
  readonly name: string;
  readonly fdCount: number;
}

export type SupervisorMessage =
  /** How many descriptors may be kept at the same time. */
  | { readonly type: "takeOver"; readonly maxFds: number }
  | { readonly type: "entries"; readonly entries: readonly EntryHead[]; readonly isLast: boolean }
  | { readonly type: "accepted"; readonly connection: string }
  | { readonly type: "reloadFailed"; readonly reason: string }
  | { readonly type: "stop"; readonly isStored: boolean; readonly deadlineMs: number };

/** Why a packet is no message, for the log. */
export interface Malformed {
  readonly type: "malformed";
  readonly problem: string;
}

type Check = (value: unknown) => boolean;
type Fields = Readonly<Record<string, Check>>;
/** For each type of message its fields besides `type`, all of which must be there. */
type Shapes<Message extends { type: string }> = Readonly<Record<Message["type"], Fields>>;

export const isEntryName: Check = (value) => typeof value === "string" && NAME.test(value);
const isBoolean: Check = (value) => typeof value === "boolean";
const isText: Check = (value) => typeof value === "string";
const isCount: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const isEntryList: Check = (value) =>
  Array.isArray(value) && value.every((item) => hasFields(item, entryHead));

const entryHead: Fields = {
  name: isEntryName,
  fdCount: (value) => isCount(value) && (value as number) <= MAX_FDS_PER_ENTRY && value !== 0,
};

const pagerShapes: Shapes<PagerMessage> = {
  standingBy: {},
  next: {},
  serving: {},
  keep: { name: isEntryName },
  drop: { name: isEntryName },
  accept: { listener: isEntryName, connection: isEntryName },
  alive: {},
  reload: {},
  finished: {},
};

const supervisorShapes: Shapes<SupervisorMessage> = {
  takeOver: { maxFds: isCount },
  entries: { entries: isEntryList, isLast: isBoolean },
  accepted: { connection: isEntryName },
  reloadFailed: { reason: isText },
  stop: { isStored: isBoolean, deadlineMs: isCount },
};

export function parsePagerMessage(text: string, fdCount: number): PagerMessage | Malformed {
  const message = parse<PagerMessage>(text, pagerShapes);
  if (message.type === "malformed") return message;
  if (message.type !== "keep") return withFds(message, fdCount, 0);
  const isRight = fdCount >= 1 && fdCount <= MAX_FDS_PER_ENTRY;
  return isRight ? message : malformed(`keep with ${fdCount} descriptors`);
}

export function parseSupervisorMessage(
  text: string,
  fdCount: number,
): SupervisorMessage | Malformed {
  const message = parse<SupervisorMessage>(text, supervisorShapes);
  if (message.type === "malformed") return message;
  if (message.type === "accepted") return withFds(message, fdCount, 1);
  if (message.type !== "entries") return withFds(message, fdCount, 0);
  return withFds(
    message,
    fdCount,
    message.entries.reduce((sum, head) => sum + head.fdCount, 0),
  );
}

/** How many of these entries fit into the next packet; at least one, if there is one. */
export function batchLength(heads: readonly EntryHead[]): number {
  let fdCount = 0;
  let length = 0;
  while (length < heads.length) {
    fdCount += heads[length]!.fdCount;
    if (fdCount > MAX_FDS_PER_PACKET) break;
    length += 1;
  }
  return length;
}

function parse<Message extends { type: string }>(
  text: string,
  shapes: Shapes<Message>,
): Message | Malformed {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return malformed("not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return malformed("not an object");
  }
  const { type, ...fields } = value as Record<string, unknown>;
  if (typeof type !== "string" || !Object.hasOwn(shapes, type)) return malformed("unknown type");
  const shape = shapes[type as Message["type"]];
  return hasFields(fields, shape) ? (value as Message) : malformed(`fields of ${type}`);
}

/** All of them, right, and no others. */
function hasFields(value: unknown, fields: Fields): boolean {
  if (typeof value !== "object" || value === null) return false;
  const names = Object.keys(value);
  return (
    names.length === Object.keys(fields).length &&
    names.every((name) => {
      const isRight = Object.hasOwn(fields, name) ? fields[name] : undefined;
      return isRight?.((value as Record<string, unknown>)[name]) === true;
    })
  );
}

function withFds<Message extends { type: string }>(
  message: Message,
  fdCount: number,
  expected: number,
): Message | Malformed {
  if (fdCount === expected) return message;
  return malformed(`${message.type} with ${fdCount} descriptors instead of ${expected}`);
}

function malformed(problem: string): Malformed {
  return { type: "malformed", problem };
}
