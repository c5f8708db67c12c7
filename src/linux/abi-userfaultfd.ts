/** <linux/userfaultfd.h>, names verbatim. PURE; compared with a C compiler by `test/abi`. */
import { _IO, _IOR, _IOWR, struct } from "./layout.ts";

export const UFFD_API = 0xaa;
export const UFFD_USER_MODE_ONLY = 1;
export const USERFAULTFD_IOC_NEW = _IO(0xaa, 0x00);

// struct uffd_msg: one event, 32 bytes, packed. See userfaultfd(2).
export const uffd_msg = struct(32, {
  event: 0,
  "arg.pagefault.flags": 8,
  "arg.pagefault.address": 16,
  "arg.pagefault.feat.ptid": 24,
  "arg.fork.ufd": 8,
  "arg.remap.from": 8,
  "arg.remap.to": 16,
  "arg.remap.len": 24,
  "arg.remove.start": 8,
  "arg.remove.end": 16,
});
export const UFFD_EVENT_PAGEFAULT = 0x12;
export const UFFD_EVENT_FORK = 0x13;
export const UFFD_EVENT_REMAP = 0x14;
export const UFFD_EVENT_REMOVE = 0x15;
export const UFFD_EVENT_UNMAP = 0x16;

export const UFFD_PAGEFAULT_FLAG_WRITE = 1;
export const UFFD_PAGEFAULT_FLAG_WP = 2;
export const UFFD_PAGEFAULT_FLAG_MINOR = 4;

export const UFFD_FEATURE_PAGEFAULT_FLAG_WP = 0x1;
export const UFFD_FEATURE_EVENT_FORK = 0x2;
export const UFFD_FEATURE_EVENT_REMAP = 0x4;
export const UFFD_FEATURE_EVENT_REMOVE = 0x8;
export const UFFD_FEATURE_MISSING_HUGETLBFS = 0x10;
export const UFFD_FEATURE_MISSING_SHMEM = 0x20;
export const UFFD_FEATURE_EVENT_UNMAP = 0x40;
export const UFFD_FEATURE_SIGBUS = 0x80;
export const UFFD_FEATURE_THREAD_ID = 0x100;
export const UFFD_FEATURE_MINOR_HUGETLBFS = 0x200;
export const UFFD_FEATURE_MINOR_SHMEM = 0x400;
export const UFFD_FEATURE_EXACT_ADDRESS = 0x800;
export const UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 0x1000;
export const UFFD_FEATURE_WP_UNPOPULATED = 0x2000;
export const UFFD_FEATURE_POISON = 0x4000;
export const UFFD_FEATURE_WP_ASYNC = 0x8000;
export const UFFD_FEATURE_MOVE = 0x10000;

export const uffdio_api = struct(24, { api: 0, features: 8, ioctls: 16 });
export const uffdio_range = struct(16, { start: 0, len: 8 });
export const uffdio_register = struct(32, {
  "range.start": 0,
  "range.len": 8,
  mode: 16,
  ioctls: 24,
});
export const uffdio_copy = struct(40, { dst: 0, src: 8, len: 16, mode: 24, copy: 32 });
export const uffdio_zeropage = struct(32, {
  "range.start": 0,
  "range.len": 8,
  mode: 16,
  zeropage: 24,
});
export const uffdio_move = struct(40, { dst: 0, src: 8, len: 16, mode: 24, move: 32 });
export const uffdio_writeprotect = struct(24, { "range.start": 0, "range.len": 8, mode: 16 });
export const uffdio_continue = struct(32, {
  "range.start": 0,
  "range.len": 8,
  mode: 16,
  mapped: 24,
});
export const uffdio_poison = struct(32, {
  "range.start": 0,
  "range.len": 8,
  mode: 16,
  updated: 24,
});

export const UFFDIO_REGISTER_MODE_MISSING = 1;
export const UFFDIO_REGISTER_MODE_WP = 2;
export const UFFDIO_REGISTER_MODE_MINOR = 4;
export const UFFDIO_COPY_MODE_DONTWAKE = 1;
export const UFFDIO_COPY_MODE_WP = 2;
export const UFFDIO_ZEROPAGE_MODE_DONTWAKE = 1;
export const UFFDIO_WRITEPROTECT_MODE_WP = 1;
export const UFFDIO_WRITEPROTECT_MODE_DONTWAKE = 2;
export const UFFDIO_CONTINUE_MODE_DONTWAKE = 1;
export const UFFDIO_CONTINUE_MODE_WP = 2;
export const UFFDIO_POISON_MODE_DONTWAKE = 1;
export const UFFDIO_MOVE_MODE_DONTWAKE = 1;
export const UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES = 2;

// The bit of each operation in uffdio_api.ioctls and uffdio_register.ioctls.
export const _UFFDIO_WAKE = 0x02;
export const _UFFDIO_COPY = 0x03;
export const _UFFDIO_ZEROPAGE = 0x04;
export const _UFFDIO_MOVE = 0x05;
export const _UFFDIO_WRITEPROTECT = 0x06;
export const _UFFDIO_CONTINUE = 0x07;
export const _UFFDIO_POISON = 0x08;

export const UFFDIO_API = _IOWR(0xaa, 0x3f, uffdio_api.size);
export const UFFDIO_REGISTER = _IOWR(0xaa, 0x00, uffdio_register.size);
// UNREGISTER and WAKE are _IOR by a historical mistake in the header.
export const UFFDIO_UNREGISTER = _IOR(0xaa, 0x01, uffdio_range.size);
export const UFFDIO_WAKE = _IOR(0xaa, 0x02, uffdio_range.size);
export const UFFDIO_COPY = _IOWR(0xaa, 0x03, uffdio_copy.size);
export const UFFDIO_ZEROPAGE = _IOWR(0xaa, 0x04, uffdio_zeropage.size);
export const UFFDIO_MOVE = _IOWR(0xaa, 0x05, uffdio_move.size);
export const UFFDIO_WRITEPROTECT = _IOWR(0xaa, 0x06, uffdio_writeprotect.size);
export const UFFDIO_CONTINUE = _IOWR(0xaa, 0x07, uffdio_continue.size);
export const UFFDIO_POISON = _IOWR(0xaa, 0x08, uffdio_poison.size);
