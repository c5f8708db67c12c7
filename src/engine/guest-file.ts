/**
 * Writes to a guest_memfd. A page is written once: KVM takes it out of the host's own mappings
 * then, and a second write says EEXIST, or ends short before it. See pwrite(2).
 */
import { EEXIST, EFAULT, EINTR, ENOMEM, ENOSPC } from "../linux/abi-posix.ts";
import * as sys from "../linux/sys.ts";
import type { GuestFile, WriteRefusal } from "../pager/population.ts";

export class GuestMemfdFile implements GuestFile {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** @throws SysError a guest_memfd that cannot be written to at all */
  write(sourceAddress: number, lengthBytes: number, offset: number): number | WriteRefusal {
    for (;;) {
      const written = sys.pwrite(this.#fd, sourceAddress, lengthBytes, offset);
      if (written > 0) return written;
      const errno = written === 0 ? ENOSPC : sys.errno();
      if (errno === EEXIST) return "present";
      if (errno === EFAULT) return "badSource";
      if (errno === ENOMEM || errno === ENOSPC) return "outOfMemory";
      if (errno !== EINTR) throw sys.sysError("pwrite", "to a guest_memfd");
    }
  }
}
