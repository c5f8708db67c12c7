/**
 * What a test file leaves behind if it is ended from outside: nothing. The runner ends a file that
 * takes too long by SIGTERM; what still runs or lies about is ended then by exit hooks.
 */
const cleanups = new Set<() => void>();

process.once("SIGTERM", () => process.exit(143));
process.on("exit", () => {
  for (const cleanUp of cleanups) cleanUp();
});

/** Has `cleanUp` called when this process ends, unless the function that it returns is called. */
export function atExit(cleanUp: () => void): () => void {
  cleanups.add(cleanUp);
  return () => cleanups.delete(cleanUp);
}
