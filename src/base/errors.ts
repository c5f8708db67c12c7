/**
 * Errors that a user or a peer can cause, with stable codes.
 *
 * A message names the thing and the value, and says what to do. The code is what programs match on;
 * the exit code is what shells see. `docs/ERRORS.md` lists every code, and a test keeps it so.
 */

/** Exit codes of the command line. 0 is success. */
export const ExitCode = {
  ok: 0,
  failed: 1,
  usage: 2,
  badSnapshot: 3,
  badSocket: 4,
  noAccess: 5,
  internal: 70,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** Every error code, the exit code it leads to, and what it means. */
export const errorCodes = {
  "memory-missing": [ExitCode.badSnapshot, "The memory file or a layer cannot be opened."],
  "memory-empty": [ExitCode.badSnapshot, "The memory file or a layer has no bytes."],
  "memory-misaligned": [ExitCode.badSnapshot, "The memory file is not a whole number of pages."],
  "memory-changed": [ExitCode.badSnapshot, "The memory file changed while it was served."],
  "layer-size": [ExitCode.badSnapshot, "A layer's size differs from the base memory file's."],
  "layer-holes": [ExitCode.badSnapshot, "The file system does not report a layer's holes exactly."],
  "session-file": [ExitCode.badSnapshot, "A session file cannot be used, or its VM is gone."],
  "vm-changed": [ExitCode.failed, "The VM changed while its memory was packed."],
  "no-process-access": [ExitCode.noAccess, "This user may not read the VM's memory."],
  "socket-path": [ExitCode.badSocket, "The socket path is too long, or its folder is missing."],
  "socket-in-use": [ExitCode.badSocket, "Another process serves on this socket path."],
  "socket-failed": [ExitCode.badSocket, "The socket cannot be created, owned or removed."],
  "image-missing": [ExitCode.badSnapshot, "There is no image of this name in the store."],
  "image-corrupt": [ExitCode.badSnapshot, "An index or a chunk does not hold what it should."],
  "store-failed": [ExitCode.failed, "A store did not answer, or not in time."],
  "store-refused": [ExitCode.noAccess, "A store does not allow the request."],
  "no-userfaultfd": [ExitCode.noAccess, "This process or kernel may not use userfaultfd."],
  "no-kvm": [ExitCode.noAccess, "This process or machine cannot use /dev/kvm."],
  unsupported: [ExitCode.noAccess, "The kernel, or a server, lacks what the requested mode needs."],
  "bad-option": [ExitCode.usage, "An option is unknown, or its value cannot be used."],
  "handler-failed": [
    ExitCode.failed,
    "The handler under test did not start, answer, or give the right bytes.",
  ],
  "trace-corrupt": [ExitCode.badSnapshot, "A trace's file does not hold what it should."],
  "no-compiler": [
    ExitCode.noAccess,
    "A C program that a benchmark or a test plays with cannot be built.",
  ],
  handshake: [ExitCode.failed, "A peer's handshake was refused."],
  "rescue-refused": [ExitCode.failed, "A VM cannot be taken over as it is, or as was stated."],
  "bad-request": [ExitCode.usage, "A request to the daemon, or its configuration, is not valid."],
  "no-session": [ExitCode.failed, "The daemon has no session of this name."],
  conflict: [ExitCode.failed, "The session, or the daemon, is in no state for what was asked."],
  limit: [ExitCode.failed, "A bound of the daemon is reached."],
  "not-allowed": [ExitCode.noAccess, "The daemon's configuration does not allow what was asked."],
  "no-report": [ExitCode.failed, "No restore report is kept of this session, or of this memory."],
  "report-corrupt": [ExitCode.badSnapshot, "A restore report's file does not hold what it should."],
  "no-daemon": [ExitCode.failed, "No daemon answers on its control socket."],
  "unresolvable-page": [ExitCode.failed, "A page's bytes could not be obtained or installed."],
  "session-failed": [ExitCode.failed, "A session ended because its VM had to be stopped."],
  system: [ExitCode.failed, "A system call failed; the message names it and the errno."],
} as const satisfies Record<string, readonly [ExitCode, string]>;
export type ErrorCode = keyof typeof errorCodes;

/** Something outside this program is wrong; the message says what, and what to do. */
export class FaultlineError extends Error {
  override readonly name: string = "FaultlineError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  get exitCode(): ExitCode {
    return errorCodes[this.code][0];
  }
}

/** A system call failed. `errnoName` is what to match on; the number differs between platforms. */
export class SysError extends FaultlineError {
  override readonly name = "SysError";
  readonly syscall: string;
  readonly errno: number;
  readonly errnoName: string;

  constructor(syscall: string, errno: number, errnoName: string, detail?: string) {
    super("system", `${syscall}${detail === undefined ? "" : ` ${detail}`}: ${errnoName}`);
    this.syscall = syscall;
    this.errno = errno;
    this.errnoName = errnoName;
  }
}

/** The text of an error and of everything that caused it, outermost first. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : `: ${describeError(error.cause)}`;
  return `${error.message}${cause}`;
}
