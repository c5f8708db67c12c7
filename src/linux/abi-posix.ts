/**
 * The constants and structures of libc and the kernel that are not of one subsystem: mmap, sockets,
 * epoll, fcntl, system call numbers. Names verbatim. PURE; compared with a C compiler by
 * `test/abi`. arm64 values are from the kernel headers and untested (docs/KERNELS.md).
 */
import { struct } from "./layout.ts";

type Arch = "x64" | "arm64";

export const EINTR = 4;
export const EIO = 5;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const EINVAL = 22;
export const ENOENT = 2;
export const ENXIO = 6;
export const EPERM = 1;
export const ESRCH = 3;
export const ENOSPC = 28;
export const ENOSYS = 38;
export const ENOPROTOOPT = 92;
export const ECONNRESET = 104;
export const ECONNREFUSED = 111;
export const EADDRINUSE = 98;
export const EMFILE = 24;
export const ENFILE = 23;
export const EPIPE = 32;
/** Too many descriptors of this user are in messages that nobody has read yet. See unix(7). */
export const ETOOMANYREFS = 109;

export const O_NONBLOCK = 0x800;
export const O_CLOEXEC = 0x80000;
/** Names a file without opening it. See open(2). */
export const O_PATH = 0x200000;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_ADD_SEALS = 1033;
export const F_GET_SEALS = 1034;
export const F_SEAL_SHRINK = 0x2;
export const F_SETFD = 2;
export const FD_CLOEXEC = 1;
export const F_DUPFD_CLOEXEC = 1030;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
export const LOCK_EX = 2;
export const LOCK_NB = 4;

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x1;
export const MAP_PRIVATE = 0x2;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_HUGETLB = 0x40000;
export const MAP_HUGE_2MB = 21 << 26;
export const MADV_DONTNEED = 4;
export const MADV_REMOVE = 9;
export const MADV_HUGEPAGE = 14;
export const MADV_NOHUGEPAGE = 15;
export const MADV_POPULATE_READ = 22;
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;

/** cachestat(2), Linux 6.5, <linux/mman.h>. */
export const cachestat_range = struct(16, { off: 0, len: 8 });
export const cachestat = struct(40, {
  nr_cache: 0,
  nr_dirty: 8,
  nr_writeback: 16,
  nr_evicted: 24,
  nr_recently_evicted: 32,
});

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_SEQPACKET = 5;
export const SOCK_CLOEXEC = 0x80000;
export const SOCK_NONBLOCK = 0x800;
export const SOL_SOCKET = 1;
export const SCM_RIGHTS = 1;
export const SO_REUSEADDR = 2;
export const SO_SNDTIMEO = 21;
export const SO_PEERCRED = 17;
/** From which byte on MSG_PEEK looks; each look moves it on. See socket(7). */
export const SO_PEEK_OFF = 42;
export const SO_PEERPIDFD = 77;
/** What was sent and not read yet, in the kernel's memory. See unix(7). */
export const SIOCOUTQ = 0x5411;
export const MSG_PEEK = 0x2;
export const MSG_CTRUNC = 0x8;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;

/** Ports and addresses in network order. */
export const sockaddr_in = struct(16, { sin_family: 0, sin_port: 2, sin_addr: 4 });
export const sockaddr_in6 = struct(28, { sin6_family: 0, sin6_port: 2, sin6_addr: 8 });
export const sockaddr_un = struct(110, { sun_family: 0, sun_path: 2 });
/** The longest usable socket path: sun_path is 108 bytes with its closing NUL. */
export const SUN_PATH_MAX = 107;
export const iovec = struct(16, { iov_base: 0, iov_len: 8 });
export const msghdr = struct(56, {
  msg_name: 0,
  msg_namelen: 8,
  msg_iov: 16,
  msg_iovlen: 24,
  msg_control: 32,
  msg_controllen: 40,
  msg_flags: 48,
});
export const cmsghdr = struct(16, { cmsg_len: 0, cmsg_level: 8, cmsg_type: 12 });
export const ucred = struct(12, { pid: 0, uid: 4, gid: 8 });
export const timespec = struct(16, { tv_sec: 0, tv_nsec: 8 });
export const timeval = struct(16, { tv_sec: 0, tv_usec: 8 });
export const CLOCK_MONOTONIC = 1;
export const SCHED_OTHER = 0;
export const SCHED_BATCH = 3;
export const sched_attr = struct(56, {
  size: 0,
  sched_policy: 4,
  sched_flags: 8,
  sched_nice: 16,
  sched_priority: 20,
  sched_runtime: 24,
  sched_deadline: 32,
  sched_period: 40,
  sched_util_min: 48,
  sched_util_max: 52,
});

export const EPOLL_CLOEXEC = 0x80000;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLLIN = 0x1;
export const EPOLLERR = 0x8;
export const EPOLLHUP = 0x10;
export const EPOLLET = 0x80000000;
const epollEvent = {
  // Packed on x86-64 only, for the sake of 32-bit programs (<sys/epoll.h>, EPOLL_PACKED).
  x64: struct(12, { events: 0, data: 4 }),
  arm64: struct(16, { events: 0, data: 8 }),
} as const;

/** <linux/kcmp.h>: whether two descriptors are one open file description. */
export const KCMP_FILE = 0;
export const EFD_CLOEXEC = 0x80000;
export const EFD_NONBLOCK = 0x800;
export const SIGKILL = 9;
export const PR_SET_PDEATHSIG = 1;
/** <asm-generic/mman-common.h>, Linux 6.1. */
export const MADV_COLLAPSE = 25;

const syscallNumbers = {
  x64: {
    SYS_gettid: 186,
    SYS_userfaultfd: 323,
    SYS_pidfd_open: 434,
    SYS_pidfd_send_signal: 424,
    SYS_pidfd_getfd: 438,
    SYS_cachestat: 451,
    SYS_process_madvise: 440,
    SYS_sched_setattr: 314,
    SYS_sched_getattr: 315,
    SYS_kcmp: 312,
    SYS_prctl: 157,
  },
  arm64: {
    SYS_gettid: 178,
    SYS_userfaultfd: 282,
    SYS_pidfd_open: 434,
    SYS_pidfd_send_signal: 424,
    SYS_pidfd_getfd: 438,
    SYS_cachestat: 451,
    SYS_process_madvise: 440,
    SYS_sched_setattr: 274,
    SYS_sched_getattr: 275,
    SYS_kcmp: 272,
    SYS_prctl: 167,
  },
} as const;

/** What differs between the architectures. Throws on one we have no numbers for. */
export function abiOf(arch: string): {
  readonly epoll_event: (typeof epollEvent)[Arch];
  readonly syscalls: (typeof syscallNumbers)[Arch];
} {
  if (arch !== "x64" && arch !== "arm64") {
    throw new Error(`Faultline knows the kernel ABI of x64 and arm64, not of ${arch}.`);
  }
  return { epoll_event: epollEvent[arch], syscalls: syscallNumbers[arch] };
}
