/** Mapped memory with one owner. See mmap(2), memfd_create(2). */
import { fstatSync, ftruncateSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { type HostAddress, hostAddress } from "../base/units.ts";
import {
  F_ADD_SEALS,
  F_GET_SEALS,
  F_SEAL_SHRINK,
  MAP_ANONYMOUS,
  MAP_HUGE_2MB,
  MAP_HUGETLB,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  PROT_READ,
  PROT_WRITE,
} from "./abi-posix.ts";
import { describeFd, OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

/** For threads that know a mapping by its address only. */
export { viewOf } from "./sys.ts";

/** A mapping in this process. Addresses are shared by all threads; views are per thread. */
export class MappedRegion {
  readonly address: HostAddress;
  readonly sizeBytes: number;
  #isMapped = true;

  private constructor(address: number, sizeBytes: number) {
    this.address = hostAddress(address);
    this.sizeBytes = sizeBytes;
  }

  /** Private zero memory, committed only where it is touched. */
  static anonymous(sizeBytes: number, options: { hugePages?: boolean } = {}): MappedRegion {
    const huge = options.hugePages === true ? MAP_HUGETLB | MAP_HUGE_2MB : 0;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | huge;
    return MappedRegion.#map(sizeBytes, PROT_READ | PROT_WRITE, flags, -1);
  }

  /** A whole file, read-only. Stays valid after the file descriptor is closed. */
  static readOnlyFile(fd: number, sizeBytes: number): MappedRegion {
    return MappedRegion.#map(sizeBytes, PROT_READ, MAP_SHARED, fd);
  }

  /** Shared, writable pages of a memfd, file or device, from `offsetBytes` on. */
  static shared(fd: number, sizeBytes: number, offsetBytes = 0): MappedRegion {
    return MappedRegion.#map(sizeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offsetBytes);
  }

  static #map(
    sizeBytes: number,
    prot: number,
    flags: number,
    fd: number,
    offsetBytes = 0,
  ): MappedRegion {
    assert(Number.isSafeInteger(sizeBytes) && sizeBytes > 0, `cannot map ${sizeBytes} bytes`);
    const address = sys.mmap(null, sizeBytes, prot, flags, fd, offsetBytes);
    sys.check(address, "mmap", `${sizeBytes} bytes`);
    assert(Number.isSafeInteger(address), "mmap returned an address beyond 2^53");
    return new MappedRegion(address, sizeBytes);
  }

  /** An ArrayBuffer over the mapping, for this thread. Do not touch it after unmap(). */
  view(): ArrayBuffer {
    assert(this.#isMapped, "view of an unmapped region");
    return sys.viewOf(this.address, this.sizeBytes);
  }

  /** See madvise(2). With EVENT_REMOVE, MADV_DONTNEED blocks until the uffd's reader took it. */
  advise(offsetBytes: number, lengthBytes: number, advice: number): void {
    assert(offsetBytes + lengthBytes <= this.sizeBytes, "madvise outside of the region");
    sys.check(sys.madvise(this.address + offsetBytes, lengthBytes, advice), "madvise");
  }

  protect(offsetBytes: number, lengthBytes: number, prot: number): void {
    assert(offsetBytes + lengthBytes <= this.sizeBytes, "mprotect outside of the region");
    sys.check(sys.mprotect(this.address + offsetBytes, lengthBytes, prot), "mprotect");
  }

  unmap(): void {
    if (!this.#isMapped) return;
    this.#isMapped = false;
    sys.check(sys.munmap(this.address, this.sizeBytes), "munmap");
  }

  [Symbol.dispose](): void {
    this.unmap();
  }
}

/** An anonymous file that lives in memory. See memfd_create(2). */
export function createMemfd(name: string): OwnedFd {
  return new OwnedFd(sys.check(sys.memfd_create(name, MFD_CLOEXEC), "memfd_create"));
}

/** The same of a fixed size: nobody can take pages away from those who have it mapped. */
export function createSealedMemfd(name: string, sizeBytes: number): OwnedFd {
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const memfd = new OwnedFd(sys.check(sys.memfd_create(name, flags), "memfd_create"));
  try {
    ftruncateSync(memfd.fd, sizeBytes);
    sys.check(sys.fcntl(memfd.fd, F_ADD_SEALS, F_SEAL_SHRINK), "fcntl(F_ADD_SEALS)");
    return memfd;
  } catch (error) {
    memfd.close();
    throw error;
  }
}

/**
 * Whether a mapping of its first `sizeBytes` stays whole, whatever another process does: to touch
 * a page that is gone is a SIGBUS, and to touch one of a file system of somebody's own may take for
 * ever. True for a memfd that is sealed against shrinking, and for what belongs to KVM.
 */
export function isSafeToMap(fd: number, sizeBytes: number): boolean {
  if (describeFd(fd).startsWith("anon_inode:kvm-")) return true;
  const seals = sys.fcntl(fd, F_GET_SEALS, 0);
  if (seals === -1 || (seals & F_SEAL_SHRINK) === 0) return false;
  return fstatSync(fd).size >= sizeBytes;
}
