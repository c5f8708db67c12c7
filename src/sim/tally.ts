/**
 * What a run has come across, and how often. A simulator proves nothing about what it never saw:
 * the tests want every sight of this list, and the command's summary shows them all. PURE.
 */

export const sights = [
  // Guests.
  "fault",
  "fault for a write",
  "fault on a page waited for",
  "fault answered unread",
  "signal",
  "signal after the fault was read",
  "reads and writes checked",
  "SIGBUS on poison",
  // VMMs.
  "REMOVE",
  "UNMAP",
  "silent remove",
  "drop after a refill",
  "border",
  "unregister",
  "page filled by the VMM",
  "page filled by the VMM without wake",
  "shortage",
  "exit",
  "exec",
  // What the kernel answered. `busy` comes from UFFDIO_MOVE only.
  "outcome: installed",
  "outcome: partial",
  "outcome: alreadyPresent",
  "outcome: deferred",
  "outcome: unregistered",
  "outcome: badSource",
  "outcome: outOfMemory",
  "outcome: gone",
  "deferred without event",
  "gone in the middle of a plan",
  "poisoned",
  "poison refused",
  "installed, to be woken later",
  // What the planner made of it.
  "verdict: first",
  "verdict: queued",
  "verdict: known",
  "verdict: overflow",
  "settlement: done",
  "settlement: wake",
  "settlement: retry",
  "settlement: wakeAndBackoff",
  "settlement: backoff",
  "settlement: gone",
  "settlement: badSource",
  "settlement: exhausted",
  // Bytes that come later.
  "parked",
  "held back",
  "part arrived",
  "part lost",
  "part evicted",
  "run split around a lost part",
  "waited for a lost part",
  "piece installed ahead",
  "scan given pages ahead",
  "pages ahead that are not at hand",
  // How turns and sessions ended.
  "turn: idle",
  "turn: again",
  "turn: later",
  "turn: rest",
  "turn: gone",
  "turn: failed",
  "turn in which the reads ran out",
  "turn cut by its bytes",
  "end: served",
  "end: frozen",
  "end: exited",
  "end: gone",
  "end: complete",
  "failed: badSource",
  "failed: exhausted",
  // Kinds of worlds.
  "VM with huge pages",
  "VM with crowd",
  "VM beside others",
  "VM in a flood",
] as const;

/** The same of VMs with KVM Userfault. */
export const userfaultSights = [
  // vCPUs and the VMM's threads.
  "fault that stops the vCPU",
  "fault by ring",
  "fault by the second socket",
  "ring of faults is full",
  "ring signalled",
  "event: MISSING",
  "event: MINOR",
  "request sent again",
  "reply to a vCPU that runs",
  "vCPU found a page missing",
  "reads and writes checked",
  // The VMM and KVM.
  "hole",
  "page filled by KVM",
  "page mapped, and nobody woken",
  // What the file and the userfaultfd answered.
  "write: EEXIST",
  "write: ENOMEM",
  "write: ends early",
  "write: ends in a page",
  "write: ends before a page that is there",
  "continue: installed",
  "continue: deferred",
  "continue: badSource",
  "continue: alreadyPresent",
  "zeroes for a hole",
  "socket takes nothing",
  "ring of completions is full",
  // What became of faults.
  "userfault: first",
  "userfault: known",
  "userfault: present",
  "parked",
  "piece installed ahead",
  "scan given pages ahead",
  "installed, to be woken later",
  "turn: idle",
  "turn: again",
  "turn: later",
  "turn: rest",
  // Handlers that die.
  "handler died between calls",
  "handler died in a turn",
  "handler died as it began",
  "handler died inside a change of memory",
  "waiter taken over",
  "page found by a takeover",
  "answer given twice",
  "hole that nobody knew of",
  // Kinds of worlds.
  "VM on guest_memfd",
  "VM on a memfd",
] as const;

/** Where worlds play what a recorded guest did. */
const replaySights = ["touch of a recording"] as const;

export type Sight =
  | (typeof sights)[number]
  | (typeof userfaultSights)[number]
  | (typeof replaySights)[number];

const allSights: readonly Sight[] = [
  ...new Set<Sight>([...sights, ...userfaultSights, ...replaySights]),
];

/** `sightOf.outcome.partial` is "outcome: partial": put together once, not at every call. */
function sightsNamed<Name extends string, Kind extends string>(
  kind: Kind,
  names: readonly Name[],
): Readonly<Record<Name, `${Kind}: ${Name}`>> {
  const entries = names.map((name) => [name, `${kind}: ${name}`]);
  return Object.fromEntries(entries) as Record<Name, `${Kind}: ${Name}`>;
}

export const sightOf = {
  outcome: sightsNamed("outcome", [
    ...(["installed", "partial", "alreadyPresent", "deferred", "unregistered"] as const),
    ...(["badSource", "outOfMemory", "gone"] as const),
  ]),
  userfault: sightsNamed("userfault", ["first", "known", "present"] as const),
  settlement: sightsNamed("settlement", [
    ...(["done", "wake", "retry", "wakeAndBackoff", "backoff"] as const),
    ...(["gone", "badSource", "exhausted"] as const),
  ]),
  verdict: sightsNamed("verdict", ["first", "queued", "known", "overflow"] as const),
  turn: sightsNamed("turn", ["idle", "again", "later", "rest", "gone", "failed"] as const),
};

export class Tally {
  readonly #counts = new Map<Sight, number>();

  add(sight: Sight, count = 1): void {
    this.#counts.set(sight, (this.#counts.get(sight) ?? 0) + count);
  }

  get(sight: Sight): number {
    return this.#counts.get(sight) ?? 0;
  }

  merge(counts: Readonly<Record<string, number>>): void {
    for (const sight of allSights) {
      const count = counts[sight] ?? 0;
      if (count > 0) this.add(sight, count);
    }
  }

  /** What was seen, in the order of the list. */
  toJSON(): Record<string, number> {
    return Object.fromEntries(
      allSights.flatMap((sight) => (this.get(sight) > 0 ? [[sight, this.get(sight)]] : [])),
    );
  }
}
