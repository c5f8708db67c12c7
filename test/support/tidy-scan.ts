/**
 * The rules of form that our linter does not check: sizes and banned words. PURE.
 *
 * Functions are found by their braces, in code without comments and strings. What counts as one
 * is decided by the text before the brace, so formatting does not matter.
 */
import { lineAt, parseSource } from "./source-text.ts";

export const MAX_FILE_CODE_LINES = 400;
export const MAX_FUNCTION_LINES = 70;
export const MAX_COLUMNS = 100;

/** Lines that are neither blank nor only comment. */
export function countCodeLines(text: string): number {
  return parseSource(text)
    .code.split("\n")
    .filter((line) => line.trim() !== "").length;
}

export interface FunctionSpan {
  /** Its first line as written, for messages. */
  readonly head: string;
  readonly line: number;
  readonly lineCount: number;
}

const CONTROL = /^(?:(?:else|do|try|finally)\b|(?:\w+:\s*)?(?:if|for|while|switch|catch|with)\b)/;
const TYPE =
  /^(?:export\s+)?(?:declare\s+)?(?:abstract\s+)?(?:class|interface|enum|namespace|type)\b/;
/** A parameter list (already folded to `()`) and, at most, a return type behind it. */
const FUNCTION_HEAD = /\(\)(?:\s*:\s*\S.*)?$/s;
/** The body of a suite is a list of tests, not a function that anybody reads as one. */
const SUITE = /\b(?:describe|suite)\(.*=>\s*$/s;

/** Every function with a body in braces, but the suites of tests. */
export function functionSpans(text: string): FunctionSpan[] {
  const { code } = parseSource(text);
  const pairs = bracketPairs(code);
  const spans: FunctionSpan[] = [];
  for (const [open, close] of pairs) {
    if (code[open] !== "{") continue;
    const { start, folded } = headBefore(code, open, pairs);
    if (!isFunctionHead(folded)) continue;
    const lineStart = code.lastIndexOf("\n", start) + 1;
    if (SUITE.test(code.slice(lineStart, open))) continue;
    const line = lineAt(code, start);
    const head = text.slice(start, open).trim().split("\n")[0]!;
    spans.push({ head, line, lineCount: lineAt(code, close) - line + 1 });
  }
  return spans;
}

/** Matching brackets in both directions. */
function bracketPairs(code: string): Map<number, number> {
  const pairs = new Map<number, number>();
  const open: number[] = [];
  for (let index = 0; index < code.length; index++) {
    if ("([{".includes(code[index]!)) open.push(index);
    if (!")]}".includes(code[index]!)) continue;
    const start = open.pop();
    if (start === undefined) continue;
    pairs.set(start, index);
    pairs.set(index, start);
  }
  return pairs;
}

/**
 * The statement that a brace at `open` ends: its start, and its text with every bracketed part
 * folded to an empty pair.
 */
function headBefore(
  code: string,
  open: number,
  pairs: ReadonlyMap<number, number>,
): { start: number; folded: string } {
  let folded = "";
  let angleDepth = 0;
  let index = open - 1;
  for (; index >= 0; index--) {
    const here = code[index]!;
    if (here === "}" && !continuesType(folded)) break;
    if (")]}".includes(here)) {
      const start = pairs.get(index);
      if (start === undefined) break;
      folded = `${code[start]}${here}${folded}`;
      index = start;
      continue;
    }
    if (here === ">" && code[index - 1] !== "=") angleDepth++;
    if (here === "<") angleDepth--;
    if ("([{;".includes(here) || (here === "," && angleDepth === 0)) break;
    folded = here + folded;
  }
  const leading = folded.length - folded.trimStart().length;
  const start = index + 1 + leading;
  return { start: Math.min(start, open), folded: folded.trim() };
}

/** Whether a `}` before this text belongs to a return type: `): { a: b }[] {`. */
function continuesType(folded: string): boolean {
  const after = folded.trim();
  return after === "" || /^(?:[>|&)\]]|\[\](?!\())/.test(after);
}

function isFunctionHead(folded: string): boolean {
  if (CONTROL.test(folded) || TYPE.test(folded)) return false;
  if (folded.endsWith("=>")) return true;
  return FUNCTION_HEAD.test(folded) && !/=\s*[^()]*\(\)$/.test(folded);
}

export interface Rule {
  readonly what: string;
  readonly pattern: RegExp;
  /** Which half of the source it is looked for in. */
  readonly where: "code" | "comments" | "text";
  /** Paths where it is allowed. */
  readonly except?: RegExp;
}

// Some words are put together so that this file does not break its own rules.
const later = ["TO", "FIX"].map((word, index) => word + ["DO", "ME"][index]).join("|");

export const bannedWords: readonly Rule[] = [
  { what: "a cast to any", pattern: /\bas any\b/, where: "code" },
  { what: "the type any", pattern: /[:<,|&]\s*any\b(?!\w)/, where: "code" },
  {
    what: "a switched-off type check",
    pattern: /@ts-(?:ignore|expect-error|nocheck)/,
    where: "comments",
  },
  { what: "a test that keeps others from running", pattern: /\.only\(/, where: "code" },
  {
    what: "a note to do it later",
    pattern: new RegExp(`\\b(?:${later}|X{3})\\b`),
    where: "comments",
  },
  { what: "a default export", pattern: /\bexport\s+default\b|\bas\s+default\b/, where: "code" },
  {
    what: "console.log",
    pattern: /\bconsole\.log\(/,
    where: "code",
    except: /^(?:src\/cli|scripts|bench|examples)\/|^src\/tinyvm\/main\.ts$/,
  },
];

export function wordViolations(file: string, text: string, rules = bannedWords): string[] {
  const source = parseSource(text);
  const violations: string[] = [];
  for (const { what, pattern, where, except } of rules) {
    if (except?.test(file) === true) continue;
    const match = pattern.exec(source[where]);
    if (match !== null) violations.push(`${file}:${lineAt(text, match.index)} has ${what}`);
  }
  return violations;
}

/** Tables of the kernel's numbers are as long as they are. */
const LONG_FILES = /^src\/linux\/abi-/;

export function sizeViolations(file: string, text: string): string[] {
  const violations: string[] = [];
  const codeLines = countCodeLines(text);
  if (codeLines > MAX_FILE_CODE_LINES && !LONG_FILES.test(file)) {
    violations.push(`${file} has ${codeLines} lines of code: at most ${MAX_FILE_CODE_LINES}`);
  }
  for (const { head, line, lineCount } of functionSpans(text)) {
    if (lineCount <= MAX_FUNCTION_LINES) continue;
    violations.push(
      `${file}:${line} has ${lineCount} lines in ${head}: at most ${MAX_FUNCTION_LINES}`,
    );
  }
  for (const [index, line] of text.split("\n").entries()) {
    const columns = [...line].length;
    if (columns <= MAX_COLUMNS) continue;
    violations.push(`${file}:${index + 1} has ${columns} columns: at most ${MAX_COLUMNS}`);
  }
  return violations;
}
