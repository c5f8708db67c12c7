/** Finds the lines that sources can log: the text, and the level. PURE. */
export interface LogCall {
  readonly level: string;
  readonly message: string;
}

const CALL = /\b#?(?:log|logger|hostLog)\.(info|warn|error)\(|#log\(/g;

/** Messages stand as they are in the call, as its last text that begins as a sentence does. */
export function logCallsIn(source: string): LogCall[] {
  const calls: LogCall[] = [];
  for (const match of source.matchAll(CALL)) {
    const call = argumentsAt(source, match.index + match[0].length);
    const texts = [...call.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, text]) => text!);
    const level = match[1] ?? texts.find((text) => /^(info|warn|error|debug)$/.test(text));
    for (const message of texts.filter((text) => /^[A-Z][a-z]* [a-z]/.test(text))) {
      calls.push({ level: level ?? "?", message });
    }
  }
  return calls;
}

/** Up to the bracket that ends them. */
function argumentsAt(source: string, from: number): string {
  let depth = 1;
  let at = from;
  while (depth > 0 && at < source.length) {
    if (source[at] === "(") depth += 1;
    if (source[at] === ")") depth -= 1;
    at += 1;
  }
  return source.slice(from, at - 1);
}

/** Those that no row of a page begins: `message`, or the beginning of it and `…`. */
export function untoldLines(page: string, calls: readonly LogCall[]): string[] {
  const told = page
    .split("\n")
    .filter((line) => /^\| (debug|info|warn|error) \|/.test(line))
    .flatMap((line) => [...line.matchAll(/`([^`]+)`/g)].map(([, text]) => text!));
  const isTold = ({ message }: LogCall): boolean =>
    told.some((text) =>
      text.endsWith("…") ? message.startsWith(text.slice(0, -1).trimEnd()) : message === text,
    );
  return calls.filter((call) => !isTold(call)).map(({ message }) => `"${message}" is not told of`);
}
