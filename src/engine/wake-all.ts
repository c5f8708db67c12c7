/**
 * UFFDIO_WAKE over all of a VM's memory: whoever waits there for a handler that is gone faults
 * again, and the kernel queues a fresh message. What the dead handler had read of the queue, and
 * never answered, is asked for again that way.
 *
 * It may come before anybody watches the descriptor, as it does in a fault worker: the messages
 * wait in the kernel, and epoll tells of what was there before it was asked to look. What has to
 * come first is the page table, with everything in it that is known: a fault that is answered
 * before a REMOVE is noted gets bytes where zeroes belong.
 */
import type { RegionMap } from "../snapshot/regions.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";

export function wakeAll(uffd: Userfaultfd, regions: RegionMap): void {
  for (const { baseHostAddress, sizeBytes } of regions.regions) {
    uffd.wake(baseHostAddress, sizeBytes);
  }
}
