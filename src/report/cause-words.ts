/** What each cause is called before people. PURE. */
import type { ReportCause } from "./restore-report.ts";

export const causeWords: Readonly<Record<ReportCause, string>> = {
  guest: "the guest ran",
  handshake: "handshake",
  queue: "fault worker busy with other VMs",
  lookup: "faults read and planned",
  install: "pages installed",
  deferred: "kernel put installations off (EAGAIN)",
  memory: "no memory on the host",
  ahead: "installed before the resume",
  fetching: "bytes under way",
  handover: "between the pager's threads",
  room: "no room for more bytes",
  store: "read from a store",
  near: "read from copies on this host",
  disk: "memory file read from its disk",
  decode: "decompressed and checked",
  again: "fetched again, as it was evicted",
  lost: "bytes that could not be had",
  takeover: "pager dead or replaced",
  cpu: "no CPU for a thread",
  delivery: "the kernel's part of faults",
};
