/**
 * The second message of a VM with KVM Userfault: whether its vCPUs have rings, and where. Plain
 * text, without length and end mark, on the stream that goes on with frames at once:
 *
 *     no_exitless_apf     no descriptors
 *     exitless_apf:N      3·N descriptors: notify eventfd, complete eventfd, vCPU; N times
 *
 * Its end is found all the same. Descriptors come with the first byte of their message, so their
 * number says what the text must be, to the last digit; what follows it belongs to the frames.
 * PURE.
 */

/** Firecracker has at most so many vCPUs. */
export const MAX_RING_VCPUS = 32;
const FDS_PER_VCPU = 3;

export type RingSetup =
  /** More bytes have to come. */
  | { readonly kind: "incomplete" }
  | { readonly kind: "done"; readonly vcpuCount: number; readonly lengthBytes: number }
  | { readonly kind: "bad"; readonly reason: string };

/**
 * What `bytes` say so far, the first of them with `fdCount` descriptors. `vcpuCount` 0: no rings.
 * The first `lengthBytes` bytes are the message, the rest are frames.
 */
export function parseRingSetup(bytes: Uint8Array, fdCount: number): RingSetup {
  if (fdCount % FDS_PER_VCPU !== 0 || fdCount > FDS_PER_VCPU * MAX_RING_VCPUS) {
    return {
      kind: "bad",
      reason: `it carries ${fdCount} descriptors, not 3 for each of up to ${MAX_RING_VCPUS} vCPUs`,
    };
  }
  const vcpuCount = fdCount / FDS_PER_VCPU;
  const text = ringSetupText(vcpuCount);
  const wanted = new TextEncoder().encode(text);
  const commonBytes = Math.min(wanted.length, bytes.length);
  for (let at = 0; at < commonBytes; at++) {
    if (bytes[at] !== wanted[at]) {
      const found = JSON.stringify(String.fromCharCode(...bytes.subarray(0, wanted.length)));
      return { kind: "bad", reason: `with ${fdCount} descriptors it is ${found}, not ${text}` };
    }
  }
  if (bytes.length < wanted.length) return { kind: "incomplete" };
  return { kind: "done", vcpuCount, lengthBytes: wanted.length };
}

/** The message for so many vCPUs with rings. */
export function ringSetupText(vcpuCount: number): string {
  return vcpuCount === 0 ? "no_exitless_apf" : `exitless_apf:${vcpuCount}`;
}
