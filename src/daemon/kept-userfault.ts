/**
 * What the daemon keeps of a VM with KVM Userfault besides what it keeps of any: its guest_memfd,
 * its bitmap, and three descriptors for each vCPU that has rings, in this order behind the others
 * of its entry. The attachment says how many there are.
 */
import { FaultlineError } from "../base/errors.ts";
import { UserfaultMemory, type UserfaultParts } from "../engine/userfault-memory.ts";
import type { ErrorPolicy } from "../engine/wire.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { ReceivedUserfault } from "../protocol/receive-vm.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { assertUserfaultPossible } from "./check-options.ts";
import type { Attachment } from "./session-record.ts";

const FDS_PER_RING = 3;

/** @throws FaultlineError `handshake`; the descriptors stay the caller's then */
export function openUserfault(
  parts: UserfaultParts,
  regions: RegionMap,
  onError: ErrorPolicy,
): UserfaultMemory {
  assertUserfaultPossible({ onError });
  return UserfaultMemory.open(parts, regions);
}

/** For the attachment. */
export function describeUserfault(parts: UserfaultParts): Attachment["userfault"] {
  const { guestAddresses, rings, asyncSocket } = parts;
  return {
    guestAddresses: [...guestAddresses],
    ringCount: rings.length,
    hasAsyncSocket: asyncSocket !== null,
  };
}

/** To be kept. */
export function fdsOfUserfault({ guestMemfd, bitmap, rings }: ReceivedUserfault): number[] {
  const ofRings = rings.flatMap(({ notify, complete, vcpu }) => [notify, complete, vcpu]);
  return [guestMemfd, bitmap, ...ofRings].map(({ fd }) => fd);
}

/**
 * From what was kept. Owns the descriptors, also if it throws.
 * @throws FaultlineError `session-failed`: they are not what was kept; `handshake`, as at first
 */
export function reopenUserfault(
  fds: readonly OwnedFd[],
  asyncSocket: OwnedFd | null,
  { userfault, regions }: Attachment,
  onError: ErrorPolicy,
): UserfaultMemory | null {
  try {
    const [guestMemfd, bitmap, ...others] = fds;
    const ringCount = userfault?.ringCount ?? 0;
    const expected = userfault === null ? 0 : 2 + FDS_PER_RING * ringCount;
    const hasAsyncSocket = userfault?.hasAsyncSocket ?? false;
    if (fds.length !== expected || (hasAsyncSocket && asyncSocket === null)) {
      throw new FaultlineError(
        "session-failed",
        `Of a VM with KVM Userfault ${fds.length} descriptors were kept instead of ${expected}, ` +
          `${asyncSocket === null ? "without" : "with"} its second socket.`,
      );
    }
    // One that came later, and is not this VM's.
    if (!hasAsyncSocket) asyncSocket?.close();
    if (userfault === null || guestMemfd === undefined || bitmap === undefined) return null;
    const rings = Array.from({ length: ringCount }, (_, vcpu) => {
      const [notify, complete, vcpuFd] = others.slice(FDS_PER_RING * vcpu) as [
        OwnedFd,
        OwnedFd,
        OwnedFd,
      ];
      return { notify, complete, vcpu: vcpuFd };
    });
    const { guestAddresses } = userfault;
    const own = hasAsyncSocket ? asyncSocket : null;
    const parts = { guestMemfd, bitmap, rings, guestAddresses, asyncSocket: own };
    return openUserfault(parts, regions, onError);
  } catch (error) {
    for (const fd of fds) fd.close();
    asyncSocket?.close();
    throw error;
  }
}
