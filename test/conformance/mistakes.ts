/**
 * What can be wrong with a handler, and which scenarios find it: each scenario is named at least
 * once, and so proven able to fail.
 */

/** What the finding says, in the words of the kit. */
const HANGS = /^No answer for|did not return/;
const ZEROES = /expected .* found zeroes/;
const SNAPSHOT = /found .*the bytes of the memory file/;
const OTHER = /found (?:the bytes of page|other bytes|the write, but)/;
const HOLDS = /still holds 1 userfaultfd/;
const DEAF = /neither ended nor served the next VM/;
const ENDS = /The handler has ended with/;
/** Findings that come only when the time is up. */
export const waits: readonly RegExp[] = [HANGS, HOLDS, DEAF];

interface Caught {
  readonly by: readonly string[];
  readonly saying: RegExp;
}

export const mistakes = {
  /** Firecracker names a page size only since v1.7. */
  "needs-page-size": { by: ["firecracker-1-1"], saying: HANGS },
  "kib-is-kib": { by: ["firecracker-1-7"], saying: HANGS },
  "strict-keys": { by: ["firecracker-1-12", "unknown-keys"], saying: HANGS },
  "reads-once": { by: ["split-handshake"], saying: /hung up before it had|No answer for/ },
  "small-buffer": { by: ["long-handshake"], saying: HANGS },
  "one-address-space": { by: ["two-regions", "three-regions"], saying: HANGS },
  "drops-early-faults": { by: ["queued-handshake"], saying: HANGS },
  "hup-is-death": { by: ["queued-and-closed"], saying: HANGS },
  "swaps-a-page": { by: ["sequential-read", "random-read", "snapshot-of-all"], saying: OTHER },
  /** With nothing but zeroes even a kernel-mode access goes through. */
  "zeroes-only": { by: ["kernel-mode-read"], saying: ZEROES },
  "zero-for-writes": { by: ["kernel-mode-write", "writes-survive"], saying: OTHER },
  "eexist-is-fatal": { by: ["same-page", "vm-stopped"], saying: ENDS },
  "takes-sixteen": { by: ["many-threads"], saying: HANGS },
  "eexist-is-done": { by: ["neighbours-present"], saying: HANGS },
  "enoent-is-done": { by: ["hotplug-boundary"], saying: HANGS },
  "crosses-the-end": { by: ["last-page"], saying: HANGS },
  "stale-buffer": { by: ["holes", "zero-pages", "hotplug-plug"], saying: OTHER },
  "ignores-remove": {
    by: [
      "remove-populated",
      "remove-missing",
      "remove-again",
      "remove-all",
      "remove-scattered",
      "remove-across-regions",
      "remove-balloon",
      "remove-flood",
      "remove-race",
      "huge-remove",
      "hotplug-replug",
    ],
    saying: SNAPSHOT,
  },
  "removes-one-more": { by: ["remove-mixed"], saying: ZEROES },
  "drops-on-eagain": { by: ["remove-unread", "remove-many-unread"], saying: HANGS },
  "decides-early": { by: ["remove-fault-first"], saying: SNAPSHOT },
  "small-copies": { by: ["huge-data", "huge-kernel-mode"], saying: HANGS },
  "zeropage-on-huge": { by: ["huge-holes"], saying: HANGS },
  "ignores-death": {
    by: ["vm-killed-mid-fault", "vm-killed-mid-remove", "vm-killed-at-work", "vm-exits"],
    saying: HOLDS,
  },
  "trusts-the-socket": { by: ["vm-killed-socket-closed"], saying: HOLDS },
  "spins-on-hangup": { by: ["idle-after-hangup"], saying: /has not slept while/ },
  "unregisters-at-the-end": { by: ["handler-terminated"], saying: ZEROES },
  "regions-of-the-first": { by: ["vms-at-once"], saying: HANGS },
  "dies-with-a-vm": { by: ["death-next-door", "vm-after-vm"], saying: ENDS },
  "refusal-is-fatal": { by: ["bad-handshake-next-door"], saying: ENDS },
  "one-handshake-at-a-time": { by: ["silence-next-door"], saying: HANGS },
  "starves-others": { by: ["flood-next-door"], saying: HANGS },
  "deaf-after-refusal": {
    by: ["no-descriptor", "empty-connection", "overlapping-regions"],
    saying: DEAF,
  },
  "refusal-crashes": { by: ["wrong-descriptor"], saying: /crashed with SIGSEGV/ },
  "refusal-ends-well": {
    by: ["no-json", "half-handshake"],
    saying: /ended with code 0, as if all were well/,
  },
  "trusts-regions": { by: ["misaligned-region"], saying: OTHER },
  "zero-for-lost-bytes": {
    by: ["region-beyond-file", "memory-too-short", "memory-truncated"],
    saying: /found zeroes|beyond the end of the memory file, but was served/,
  },
} as const satisfies Record<string, Caught>;
export type Mistake = keyof typeof mistakes;
