/** What the kernel answers to an operation on pages: a closed set of everyday results. PURE. */

/**
 * What became of an operation, per kernel result:
 * - `installed` (0): the whole range is done and its waiters are awake (unless `dontWake`).
 * - `partial` (EAGAIN, > 0 bytes): `doneBytes` are done and awake; the rest has its own result.
 * - `alreadyPresent` (EEXIST): the first page is there. The kernel woke nobody: call `wake()`.
 *   On hugetlb it also means that the pool is empty.
 * - `deferred` (EAGAIN, EINTR): an event is unread or being delivered: `drain()`, then try again.
 * - `unregistered` (ENOENT): no registered mapping holds the whole range (or: a hole in `move`).
 * - `badSource` (EFAULT): source bytes cannot be read; for `continue`: the page is in no cache.
 * - `gone` (ESRCH): the process exited or called exec.
 * - `outOfMemory` (ENOMEM), `busy` (EBUSY, `move` of a pinned page).
 */
export type Outcome =
  | "installed"
  | "partial"
  | "alreadyPresent"
  | "deferred"
  | "unregistered"
  | "badSource"
  | "gone"
  | "outOfMemory"
  | "busy";
