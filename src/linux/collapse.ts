/** Makes huge pages of small ones in another process, from outside. */
import { HUGE_PAGE_BYTES } from "../base/units.ts";
import { iovec, MADV_COLLAPSE } from "./abi-posix.ts";
import { writeU64 } from "./layout.ts";
import * as sys from "./sys.ts";

const { SYS_process_madvise } = sys.abi.syscalls;

/**
 * Moves 512 small pages of a process into one huge page: `address` is a multiple of 2 MiB. Takes
 * some 2 ms, in a thread of the libuv pool. False: a page of them is not there, or is shared, no
 * huge page can be had, or this process may not (CAP_SYS_NICE, and the rights of a debugger to
 * read). See process_madvise(2), madvise(2) MADV_COLLAPSE, Linux 6.1.
 */
export async function collapse(pidfd: number, address: number): Promise<boolean> {
  const vector = new sys.Scratch(iovec.size);
  writeU64(vector.words, iovec.offset.iov_base, address);
  writeU64(vector.words, iovec.offset.iov_len, HUGE_PAGE_BYTES);
  const done = await sys.background.syscall5(
    SYS_process_madvise,
    pidfd,
    vector.bytes,
    1,
    MADV_COLLAPSE,
    0,
  );
  return done === HUGE_PAGE_BYTES;
}
