/** Taking over a userfaultfd that another process created and registered. */
import { readFileSync } from "node:fs";
import { FaultlineError, SysError } from "../base/errors.ts";
import { EINVAL } from "../linux/abi-posix.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { describeFd, isNonblocking, type OwnedFd, setNonblocking } from "../linux/fd.ts";
import { Userfaultfd } from "./userfaultfd.ts";

/** Features under which the address space changes in ways that no handshake tells. */
const UNFOLLOWED_FEATURES: readonly (readonly [number, string])[] = [
  [abi.UFFD_FEATURE_EVENT_FORK, "EVENT_FORK"],
  [abi.UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP"],
];

/**
 * Makes sure that a received descriptor is a userfaultfd that can be served, and sets O_NONBLOCK,
 * without which poll(2) reports nothing but errors. Wakes every waiter in `ranges`: whatever an
 * earlier holder read and never answered is asked for again.
 * @throws FaultlineError `handshake`; the descriptor stays the caller's then
 */
export function adoptUserfaultfd(
  received: OwnedFd,
  ranges: readonly { readonly start: number; readonly lengthBytes: number }[],
): Userfaultfd {
  const kind = describeFd(received.fd);
  if (kind !== "anon_inode:[userfaultfd]") {
    throw new FaultlineError("handshake", `The handshake's descriptor is ${kind}, no userfaultfd.`);
  }
  const features = enabledFeatures(received.fd);
  for (const [bit, name] of UNFOLLOWED_FEATURES) {
    if ((features & bit) === 0) continue;
    throw new FaultlineError(
      "handshake",
      `The handshake's userfaultfd has the feature ${name}, whose events cannot be followed.`,
    );
  }
  if (!isNonblocking(received.fd)) setNonblocking(received.fd);
  const uffd = Userfaultfd.fromFd(received);
  try {
    for (const { start, lengthBytes } of ranges) uffd.wake(start, lengthBytes);
  } catch (cause) {
    if (!(cause instanceof SysError && cause.errno === EINVAL)) throw cause;
    throw new FaultlineError(
      "handshake",
      "The handshake's userfaultfd is not set up (no UFFDIO_API yet), or a region is no range of " +
        "user addresses",
      { cause },
    );
  }
  return uffd;
}

/** The features that the creator enabled, as /proc tells: `API:\taa:<enabled>:<all>`. */
function enabledFeatures(fd: number): number {
  const match = /^API:\s*aa:([0-9a-f]+):/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"));
  return match === null ? 0 : Number.parseInt(match[1]!, 16);
}
