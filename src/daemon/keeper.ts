/**
 * Who keeps descriptors for us beyond our death: the supervisor, by names. From the names that are
 * there the next pager knows how far each session has come:
 *
 * | entry | descriptors | there from … to |
 * | --- | --- | --- |
 * | `s.ID.record` | a memfd: what the session was asked for | its creation, its end |
 * | `s.ID.listener` | its socket | its creation, its VM is attached |
 * | `s.ID.connection` | the VMM's connection | accept(2), its end, or its refusal |
 * | `s.ID.apf` | its second socket, with `asyncFaults` | its creation, its VM is attached |
 * | `s.ID.async` | the VMM's connection there | accept(2), its end, or its refusal |
 * | `s.ID.vm` | userfaultfd, pidfd, session memory | its VM is attached, its end |
 *
 * Of a VM with KVM Userfault `s.ID.vm` holds its guest_memfd and its bitmap too, and then for each
 * vCPU with rings two eventfds and the vCPU: one entry, so that all is there or nothing.
 */
export interface Keeper {
  /** Replaces what was there. In the kernel's hands when it returns. */
  keep(name: string, fds: readonly number[]): void;
  drop(name: string): void;
  /** Asks for the next connection of a listener; it is kept under a name of its own at once. */
  accept(listener: string, connection: string): void;
}

const roles = ["record", "listener", "connection", "apf", "async", "vm"] as const;
export type SessionRole = (typeof roles)[number];

export function entryOf(id: string, role: SessionRole): string {
  return `s.${id}.${role}`;
}

/** Null: an entry that is not a session's. */
export function parseEntry(name: string): { id: string; role: SessionRole } | null {
  const [, id, word] = /^s\.(.+)\.([a-z]+)$/.exec(name) ?? [];
  const role = roles.find((known) => known === word);
  return id === undefined || role === undefined ? null : { id, role };
}

export function dropSession(keeper: Keeper, id: string): void {
  // The VM before what it cannot be taken over without; the record last: what has none is nobody's.
  for (const role of ["listener", "apf", "vm", "connection", "async", "record"] as const) {
    keeper.drop(entryOf(id, role));
  }
}
