/** What the supervisor logs with: a function, so that it needs no library. */
export type Log = (
  level: "error" | "warn" | "info" | "debug",
  msg: string,
  fields?: Readonly<Record<string, unknown>>,
) => void;
