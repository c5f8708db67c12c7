/**
 * The first message of Firecracker's protocol for KVM Userfault, and which protocol a message is
 * of. It is the handshake of old (`handshake.ts`) with two more fields for each region:
 *
 * | field          | what it says                                                             |
 * | -------------- | ------------------------------------------------------------------------ |
 * | gpa_start      | where the region begins in the guest's addresses                         |
 * | is_guest_memfd | its memory is a guest_memfd: three descriptors come instead of one       |
 *
 * The fields tell the protocol, the number of descriptors does not: a VM with ordinary memory
 * sends one in either, but in this one a second message follows (`ring-setup.ts`).
 *
 * PURE.
 */
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { GuestAddressMap } from "./guest-addresses.ts";
import { type Mapping, parseMappings, regionsOf } from "./handshake.ts";

/** What comes with a guest_memfd: userfaultfd, guest_memfd, userfault bitmap. In this order. */
export const GUEST_MEMFD_FDS = 3;

export type ParsedHandshake =
  /** Faults are events of the userfaultfd, and nothing else is sent. */
  | { readonly protocol: "userfaultfd"; readonly regions: RegionMap }
  /** Faults come as events, frames, and entries of rings. */
  | {
      readonly protocol: "userfault";
      readonly regions: RegionMap;
      readonly guestAddresses: GuestAddressMap;
      readonly isGuestMemfd: boolean;
    };

/**
 * A whole message that came with `fdCount` descriptors.
 * @throws FaultlineError `handshake`: no handshake, or one that contradicts itself
 */
export function parseAnyHandshake(
  bytes: Uint8Array,
  fdCount: number,
  hostPageBytes: number,
): ParsedHandshake {
  const entries = parseMappings(bytes);
  const isGuestMemfd = entries.some((entry) => entry.is_guest_memfd === true);
  const hasGuestAddresses = entries.some((entry) => entry.gpa_start !== undefined);
  const wantedFds = isGuestMemfd ? GUEST_MEMFD_FDS : 1;
  if (fdCount !== wantedFds) {
    const memory = isGuestMemfd ? "a guest_memfd" : "ordinary memory";
    throw refusal(`it carries ${fdCount} descriptors; a VM with ${memory} sends ${wantedFds}`);
  }
  if (!hasGuestAddresses && !isGuestMemfd) {
    return { protocol: "userfaultfd", regions: regionsOf(entries, hostPageBytes) };
  }
  if (isGuestMemfd && !entries.every((entry) => entry.is_guest_memfd === true)) {
    throw refusal("some of its regions are of a guest_memfd and some are not");
  }
  const regions = regionsOf(entries, hostPageBytes);
  // KVM maps nothing larger while a bitmap is there, and a bit of it stands for so much.
  if (isGuestMemfd && regions.pageSizeBytes !== SMALL_PAGE_BYTES) {
    throw refusal(
      `it has a guest_memfd and pages of ${regions.pageSizeBytes} bytes; those are of 4096`,
    );
  }
  const ranges = entries.map(guestRangeOf);
  const guestAddresses = new GuestAddressMap(ranges, regions.pageSizeBytes);
  return { protocol: "userfault", regions, guestAddresses, isGuestMemfd };
}

function guestRangeOf({ gpa_start: gpa, size: sizeBytes, offset }: Mapping, index: number) {
  if (gpa === undefined) throw refusal(`region ${index} has no gpa_start`);
  return { gpa, sizeBytes, imageOffset: offset };
}

function refusal(what: string): FaultlineError {
  return new FaultlineError("handshake", `The handshake cannot be served: ${what}.`);
}
