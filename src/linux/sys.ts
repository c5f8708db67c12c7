/**
 * The only file that imports koffi: libc as typed functions, and nothing else.
 *
 * koffi checks no types (`undefined` becomes NULL, 2^40 wraps as an `int`), so the signatures here
 * are the whole safety: every other module calls the kernel through them, and passes addresses as
 * numbers below 2^53.
 *
 * ioctl, fcntl and syscall are variadic in C. They are declared with fixed parameters: on x86-64
 * and arm64 Linux integer arguments then travel in the same registers, and the wrappers read no
 * others.
 */
import koffi from "koffi";
import { assert } from "../base/assert.ts";
import { SysError } from "../base/errors.ts";
import { abiOf } from "./abi-posix.ts";

/** What a `void *` parameter takes: an address, memory of ours, or NULL. */
export type Pointer = number | NodeJS.ArrayBufferView | null;
/** What the kernel's numbers depend on: `"x64"` or `"arm64"`. */
export const abi = abiOf(process.arch);

const libc = koffi.load(null);

// Each C prototype stands beside its TypeScript type. Functions that return -1 leave the reason in
// errno(), which is per thread and valid until the next call.
const f = {
  close: libc.func("int close(int fd)") as (fd: number) => number,
  read: libc.func("intptr_t read(int fd, void *buffer, size_t count)") as (
    fd: number,
    buffer: Pointer,
    count: number,
  ) => number,
  write: libc.func("intptr_t write(int fd, void *buffer, size_t count)") as (
    fd: number,
    buffer: Pointer,
    count: number,
  ) => number,
  pwrite: libc.func("intptr_t pwrite(int fd, void *buffer, size_t count, int64_t offset)") as (
    fd: number,
    buffer: Pointer,
    count: number,
    offset: number,
  ) => number,
  lseek: libc.func("int64_t lseek(int fd, int64_t offset, int whence)") as (
    fd: number,
    offset: number,
    whence: number,
  ) => number,
  flock: libc.func("int flock(int fd, int operation)") as (fd: number, op: number) => number,
  syncfs: libc.func("int syncfs(int fd)") as (fd: number) => number,
  fcntl: libc.func("int fcntl(int fd, int command, long argument)") as (
    fd: number,
    command: number,
    argument: number,
  ) => number,
  ioctl: libc.func("int ioctl(int fd, unsigned long request, void *argument)") as (
    fd: number,
    request: number,
    argument: Pointer,
  ) => number,
  syscall: libc.func("long syscall(long number, long a, long b, long c, long d)") as (
    number: number,
    a: number,
    b: number,
    c: number,
    d: number,
  ) => number,
  /** A call with five arguments. */
  syscall5: libc.func("long syscall(long n, long a, void *b, long c, long d, long e)") as (
    number: number,
    a: number,
    b: Pointer,
    c: number,
    d: number,
    e: number,
  ) => number,
  mmap: libc.func(
    "intptr_t mmap(void *address, size_t length, int prot, int flags, int fd, int64_t offset)",
  ) as (
    address: Pointer,
    length: number,
    prot: number,
    flags: number,
    fd: number,
    offset: number,
  ) => number,
  munmap: libc.func("int munmap(void *address, size_t length)") as (
    address: Pointer,
    length: number,
  ) => number,
  mprotect: libc.func("int mprotect(void *address, size_t length, int prot)") as (
    address: Pointer,
    length: number,
    prot: number,
  ) => number,
  madvise: libc.func("int madvise(void *address, size_t length, int advice)") as (
    address: Pointer,
    length: number,
    advice: number,
  ) => number,
  memcpy: libc.func("void *memcpy(void *target, void *source, size_t count)") as (
    target: Pointer,
    source: Pointer,
    count: number,
  ) => unknown,
  process_vm_readv: libc.func(
    "intptr_t process_vm_readv(int pid, void *local, unsigned long localCount, void *remote, " +
      "unsigned long remoteCount, unsigned long flags)",
  ) as (
    pid: number,
    local: Pointer,
    localCount: number,
    remote: Pointer,
    remoteCount: number,
    flags: number,
  ) => number,
  memfd_create: libc.func("int memfd_create(const char *name, unsigned int flags)") as (
    name: string,
    flags: number,
  ) => number,
  eventfd: libc.func("int eventfd(unsigned int initial, int flags)") as (
    initial: number,
    flags: number,
  ) => number,
  epoll_create1: libc.func("int epoll_create1(int flags)") as (flags: number) => number,
  epoll_ctl: libc.func("int epoll_ctl(int epoll, int operation, int fd, void *event)") as (
    epoll: number,
    operation: number,
    fd: number,
    event: Pointer,
  ) => number,
  epoll_wait: libc.func("int epoll_wait(int epoll, void *events, int capacity, int timeout)") as (
    epoll: number,
    events: Pointer,
    capacity: number,
    timeoutMs: number,
  ) => number,
  socket: libc.func("int socket(int domain, int type, int protocol)") as (
    domain: number,
    type: number,
    protocol: number,
  ) => number,
  bind: libc.func("int bind(int fd, void *address, unsigned int length)") as (
    fd: number,
    address: Pointer,
    length: number,
  ) => number,
  socketpair: libc.func("int socketpair(int domain, int type, int protocol, void *pair)") as (
    domain: number,
    type: number,
    protocol: number,
    pair: Pointer,
  ) => number,
  listen: libc.func("int listen(int fd, int backlog)") as (fd: number, backlog: number) => number,
  accept4: libc.func("int accept4(int fd, void *address, void *length, int flags)") as (
    fd: number,
    address: Pointer,
    length: Pointer,
    flags: number,
  ) => number,
  connect: libc.func("int connect(int fd, void *address, unsigned int length)") as (
    fd: number,
    address: Pointer,
    length: number,
  ) => number,
  sendmsg: libc.func("intptr_t sendmsg(int fd, void *message, int flags)") as (
    fd: number,
    message: Pointer,
    flags: number,
  ) => number,
  recvmsg: libc.func("intptr_t recvmsg(int fd, void *message, int flags)") as (
    fd: number,
    message: Pointer,
    flags: number,
  ) => number,
  recv: libc.func("intptr_t recv(int fd, void *buffer, size_t count, int flags)") as (
    fd: number,
    buffer: Pointer,
    count: number,
    flags: number,
  ) => number,
  send: libc.func("intptr_t send(int fd, void *buffer, size_t count, int flags)") as (
    fd: number,
    buffer: Pointer,
    count: number,
    flags: number,
  ) => number,
  getsockopt: libc.func(
    "int getsockopt(int fd, int level, int option, void *value, void *length)",
  ) as (fd: number, level: number, option: number, value: Pointer, length: Pointer) => number,
  setsockopt: libc.func(
    "int setsockopt(int fd, int level, int option, void *value, unsigned int length)",
  ) as (fd: number, level: number, option: number, value: Pointer, length: number) => number,
  clock_gettime: libc.func("int clock_gettime(int clock, void *time)") as (
    clock: number,
    time: Pointer,
  ) => number,
  sched_yield: libc.func("int sched_yield()") as () => number,
  getpagesize: libc.func("int getpagesize()") as () => number,
} as const;

export const {
  close,
  read,
  write,
  pwrite,
  lseek,
  flock,
  syncfs,
  fcntl,
  ioctl,
  syscall,
  syscall5,
  mmap,
  munmap,
  mprotect,
  madvise,
  memcpy,
  process_vm_readv,
  memfd_create,
  eventfd,
  epoll_create1,
  epoll_ctl,
  epoll_wait,
  socket,
  bind,
  socketpair,
  listen,
  accept4,
  connect,
  sendmsg,
  recvmsg,
  recv,
  send,
  getsockopt,
  setsockopt,
  clock_gettime,
  sched_yield,
  getpagesize,
} = f;

/** The errno that the last failing call of this thread left. */
export const errno: () => number = () => koffi.errno();

const errnoNames = new Map(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]));

/** `17` → `"EEXIST"`. */
export function errnoName(number: number): string {
  return errnoNames.get(number) ?? `errno ${number}`;
}

/** The error for the call that has just failed on this thread. */
export function sysError(syscallName: string, detail?: string): SysError {
  const number = errno();
  return new SysError(syscallName, number, errnoName(number), detail);
}

/** Passes a result through, or throws if it is -1. */
export function check(result: number, syscallName: string, detail?: string): number {
  if (result === -1) throw sysError(syscallName, detail);
  return result;
}

/** What we use of libzstd; see zstd.h. Sizes that are errors are told by `ZSTD_isError`. */
export interface ZstdFunctions {
  readonly ZSTD_versionString: () => string;
  readonly ZSTD_compressBound: (sizeBytes: number) => number;
  readonly ZSTD_isError: (code: number | bigint) => number;
  readonly ZSTD_getErrorName: (code: number | bigint) => string;
  readonly ZSTD_createCCtx: () => bigint | null;
  readonly ZSTD_freeCCtx: (context: bigint) => unknown;
  readonly ZSTD_CCtx_setParameter: (
    context: bigint,
    parameter: number,
    value: number,
  ) => number | bigint;
  readonly ZSTD_compress2: (
    context: bigint,
    target: Pointer,
    targetBytes: number,
    source: Pointer,
    sourceBytes: number,
  ) => number | bigint;
  readonly ZSTD_createDCtx: () => bigint | null;
  readonly ZSTD_freeDCtx: (context: bigint) => unknown;
  readonly ZSTD_decompressDCtx: ZstdFunctions["ZSTD_compress2"];
}

const zstdPrototypes: Readonly<Record<keyof ZstdFunctions, string>> = {
  ZSTD_versionString: "const char *ZSTD_versionString()",
  ZSTD_compressBound: "size_t ZSTD_compressBound(size_t size)",
  ZSTD_isError: "unsigned int ZSTD_isError(size_t code)",
  ZSTD_getErrorName: "const char *ZSTD_getErrorName(size_t code)",
  ZSTD_createCCtx: "void *ZSTD_createCCtx()",
  ZSTD_freeCCtx: "size_t ZSTD_freeCCtx(void *context)",
  ZSTD_CCtx_setParameter: "size_t ZSTD_CCtx_setParameter(void *context, int parameter, int value)",
  ZSTD_compress2:
    "size_t ZSTD_compress2(void *context, void *target, size_t capacity, void *source, " +
    "size_t size)",
  ZSTD_createDCtx: "void *ZSTD_createDCtx()",
  ZSTD_freeDCtx: "size_t ZSTD_freeDCtx(void *context)",
  ZSTD_decompressDCtx:
    "size_t ZSTD_decompressDCtx(void *context, void *target, size_t capacity, void *source, " +
    "size_t size)",
};

/**
 * libzstd from the first of the libraries that has it, or null. `null` in the list stands for this
 * process: Node 22.15 and newer carry libzstd inside.
 */
export function loadZstd(libraries: readonly (string | null)[]): ZstdFunctions | null {
  for (const name of libraries) {
    try {
      const library = koffi.load(name);
      const functions = Object.entries(zstdPrototypes).map(([symbol, prototype]) => [
        symbol,
        library.func(prototype) as unknown,
      ]);
      return Object.fromEntries(functions) as ZstdFunctions;
    } catch {
      // Not installed, or without one of the functions: the next.
    }
  }
  return null;
}

/** An ArrayBuffer over memory that is not V8's. Touching it after munmap is a SIGSEGV. */
export function viewOf(address: number, lengthBytes: number): ArrayBuffer {
  // SAFETY: the caller owns the mapping and keeps it until the last use of the view.
  return koffi.view(BigInt(address), lengthBytes);
}

/**
 * A small structure at a fixed address, for system calls. V8 never moves or frees the memory behind
 * an ArrayBuffer while the buffer is reachable, and `words` keeps it reachable.
 */
export class Scratch {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly address: number;

  constructor(sizeBytes: number) {
    const buffer = new ArrayBuffer((sizeBytes + 7) & ~7);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
    this.address = Number(koffi.address(this.bytes));
  }
}

/** Where the memory behind a view begins; it stays there while the view is reachable. */
export function addressOf(view: NodeJS.ArrayBufferView): number {
  return Number(koffi.address(view));
}

/**
 * The same call in a thread of the libuv pool, which may block there on a page fault while this
 * thread goes on. The pool has UV_THREADPOOL_SIZE threads, 4 by default. errno does not come back.
 * Memory of V8's is passed as a view, not as an address: that keeps it until the call returns.
 */
function inPool<Arguments extends readonly unknown[], Result>(
  call: (...given: Arguments) => Result,
): (...given: Arguments) => Promise<Result> {
  const inThread = (call as unknown as { async: (...all: unknown[]) => void }).async;
  return (...given) =>
    new Promise((resolve, reject) => {
      const done = (error: Error | null, result: Result): void => {
        void given; // Reachable from here, or the collector frees it under the blocked thread.
        if (error === null) resolve(result);
        else reject(error);
      };
      inThread(...given, done);
    });
}

/** Calls that may block on a page fault without blocking this thread. */
export const background = {
  memcpy: inPool(f.memcpy),
  madvise: inPool(f.madvise),
  read: inPool(f.read),
  syscall5: inPool(f.syscall5),
  write: inPool(f.write),
} as const;

/** Reads bytes, one as a rule, in a thread of the libuv pool. */
export async function touchInBackground(address: number, lengthBytes = 1): Promise<void> {
  const target = new Scratch(Math.max(8, lengthBytes));
  await background.memcpy(target.bytes, address, lengthBytes);
}

type SyncfsAsync = (fd: number, done: (error: Error | null, result: number) => void) => void;
const syncfsAsync = (f.syncfs as unknown as { async: SyncfsAsync }).async;

/** syncfs(2) in a thread of the libuv pool. Its errno stays in that thread: false if it failed. */
export function syncfsInBackground(fd: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    syncfsAsync(fd, (error, result) => (error === null ? resolve(result === 0) : reject(error)));
  });
}

/** Tells, on the event loop of this thread, that a descriptor became readable or hung up. */
export interface ReadWatch {
  /** Asks for one call of the callback. */
  arm(): void;
  close(): void;
}

/** The descriptors that this thread watches: a second uv_poll on one aborts the process. */
const watchedFds = new Set<number>();

/**
 * Watches a descriptor through uv_poll. Nothing happens before `arm()`. Close the watch before the
 * descriptor: libuv would take the next descriptor of the same number for this one.
 */
export function watchReadable(fd: number, onReadable: () => void): ReadWatch {
  assert(!watchedFds.has(fd), `fd ${fd} is watched already`);
  watchedFds.add(fd);
  let isClosed = false;
  const onEvent = (): void => {
    handle.stop();
    // On Node 26 promises go on only after the next callback of Node's own (koffi 3.3.4).
    setImmediate(() => {
      if (!isClosed) onReadable();
    });
  };
  const handle = koffi.node.poll(fd, { readable: true, disconnect: true }, onEvent);
  handle.stop();
  return {
    arm: () => handle.start({ readable: true, disconnect: true }, onEvent),
    close: () => {
      if (isClosed) return;
      isClosed = true;
      watchedFds.delete(fd);
      handle.close();
    },
  };
}
