/**
 * Assertions stay on in production: a broken invariant must end a session, never install a wrong
 * page. Problems that a user or a peer can cause are `FaultlineError`s instead (errors.ts).
 */

export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Marks a place that the types say cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable: ${String(value)}`);
}
