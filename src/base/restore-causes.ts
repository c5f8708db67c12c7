/**
 * Where the time of a restore goes. A VM is in one of these at any moment from its connection on,
 * so their times add up to the whole. "The VM waits": at least one of its threads does, as far as
 * its fault worker knows. PURE.
 *
 * They have places in memory that outlives the process: new ones at the end.
 */
export const restoreCauses = [
  /** Nobody waited: the guest ran. So did the kernel's part of faults, which nobody tells us of. */
  "guest",
  /** From the VMM's connection until a fault worker watches its memory. */
  "handshake",
  /** The fault worker was busy with other VMs, or had to end the VM's turn for their sake. */
  "queue",
  /** Faults are read, sorted, planned; their bytes are looked for. */
  "lookup",
  /** Pages are installed, and their threads woken. */
  "install",
  /** The kernel installs nothing while an event is unread or in delivery (EAGAIN). */
  "deferred",
  /** The host has no memory for the page, or its pool of huge pages is empty. */
  "memory",
  /** Pages are installed ahead: nobody may run yet, or a fault came in the middle of a step. */
  "ahead",
  /** Bytes are on their way, and it is not known yet what that takes. */
  "fetching",
  /** Between the fault worker and the main thread, which was busy. */
  "handover",
  /** There was no room: the cache was in use, or as many parts were asked for as may be. */
  "room",
  /** Bytes were read from a store: a network, or a folder of images. */
  "store",
  /** Bytes were read from the copies of far chunks on this host. */
  "near",
  /** Bytes of a memory file were read from its disk. */
  "disk",
  /** Bytes were decompressed and checked. */
  "decode",
  /** All that, of bytes that had been in the cache before, and were dropped from it. */
  "again",
  /** Bytes could not be had, and by policy the VM waits for them. */
  "lost",
  /** The pager was dead or replaced, and the next one not there yet. */
  "takeover",
] as const;
export type RestoreCause = (typeof restoreCauses)[number];

/** Microseconds. */
export type CauseTimes = Readonly<Record<RestoreCause, number>>;

/** By its place in `restoreCauses`. */
export const Cause = Object.fromEntries(
  restoreCauses.map((name, index) => [name, index]),
) as Readonly<Record<RestoreCause, number>>;
