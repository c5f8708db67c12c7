/** The features of UFFDIO_API by name. PURE. See ioctl_userfaultfd(2). */
import * as abi from "../linux/abi-userfaultfd.ts";

/** Each feature, its bit, and the kernel that brought it. */
export const uffdFeatures = {
  pagefaultFlagWp: [abi.UFFD_FEATURE_PAGEFAULT_FLAG_WP, "5.7"],
  eventFork: [abi.UFFD_FEATURE_EVENT_FORK, "4.11"],
  eventRemap: [abi.UFFD_FEATURE_EVENT_REMAP, "4.11"],
  eventRemove: [abi.UFFD_FEATURE_EVENT_REMOVE, "4.11"],
  missingHugetlbfs: [abi.UFFD_FEATURE_MISSING_HUGETLBFS, "4.11"],
  missingShmem: [abi.UFFD_FEATURE_MISSING_SHMEM, "4.11"],
  eventUnmap: [abi.UFFD_FEATURE_EVENT_UNMAP, "4.11"],
  sigbus: [abi.UFFD_FEATURE_SIGBUS, "4.14"],
  threadId: [abi.UFFD_FEATURE_THREAD_ID, "4.14"],
  minorHugetlbfs: [abi.UFFD_FEATURE_MINOR_HUGETLBFS, "5.13"],
  minorShmem: [abi.UFFD_FEATURE_MINOR_SHMEM, "5.14"],
  exactAddress: [abi.UFFD_FEATURE_EXACT_ADDRESS, "5.18"],
  wpHugetlbfsShmem: [abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "5.19"],
  wpUnpopulated: [abi.UFFD_FEATURE_WP_UNPOPULATED, "6.4"],
  poison: [abi.UFFD_FEATURE_POISON, "6.6"],
  wpAsync: [abi.UFFD_FEATURE_WP_ASYNC, "6.7"],
  move: [abi.UFFD_FEATURE_MOVE, "6.8"],
} as const satisfies Record<string, readonly [number, string]>;
export type UffdFeature = keyof typeof uffdFeatures;

export function featureBits(features: Iterable<UffdFeature>): number {
  let bits = 0;
  for (const name of features) bits |= uffdFeatures[name][0];
  return bits;
}

/** The names of the bits that are set; bits newer than this table are left out. */
export function featureNames(bits: number): Set<UffdFeature> {
  const names = Object.keys(uffdFeatures) as UffdFeature[];
  return new Set(names.filter((name) => (bits & uffdFeatures[name][0]) !== 0));
}
