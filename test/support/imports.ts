/** Reads the imports of TypeScript files, and finds cycles and files that nobody reaches. PURE. */
import { lineAt, parseSource } from "./source-text.ts";

export interface Import {
  readonly specifier: string;
  /** `import type` and `export type … from`: gone at run time. */
  readonly isTypeOnly: boolean;
  readonly line: number;
}

/** Files by path, as in the repository: `src/base/units.ts`. */
export type Files = ReadonlyMap<string, string>;

const STATIC_IMPORT = /^(?:import|export)\b(\s+type\b)?[^"';=()]*?(?:from\s*)?(["'])(\s*)\2/gm;
const DYNAMIC_IMPORT = /\bimport\(\s*(["'])(\s*)\1/g;
/** How a worker or a child process names its file: `new URL("./worker.js", import.meta.url)`. */
const WORKER_ENTRY = /\bnew URL\(\s*(["'])(\s*)\1,\s*import\.meta\.url/g;

export function importsOf(text: string): Import[] {
  const { code } = parseSource(text);
  const found: Import[] = [];
  const add = (match: RegExpMatchArray, quote: string, isTypeOnly: boolean): void => {
    const start = match.index! + match[0].indexOf(quote) + 1;
    const end = code.indexOf(quote, start);
    found.push({ specifier: text.slice(start, end), isTypeOnly, line: lineAt(text, match.index!) });
  };
  for (const match of code.matchAll(STATIC_IMPORT)) add(match, match[2]!, match[1] !== undefined);
  for (const match of code.matchAll(DYNAMIC_IMPORT)) add(match, match[1]!, false);
  return found;
}

/** The worker and child process files that a file starts, as specifiers of their sources. */
export function workerEntriesOf(text: string): string[] {
  const { code } = parseSource(text);
  return [...code.matchAll(WORKER_ENTRY)].map((match) => {
    const start = match.index + match[0].indexOf(match[1]!) + 1;
    return text.slice(start, code.indexOf(match[1]!, start)).replace(/\.js$/, ".ts");
  });
}

/** `src/uffd/create.ts` + `../linux/fd.ts` → `src/linux/fd.ts`; null for packages and `node:`. */
export function resolveImport(file: string, specifier: string): string | null {
  if (!specifier.startsWith(".")) return null;
  const parts = file.split("/").slice(0, -1);
  for (const part of specifier.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== ".") parts.push(part);
  }
  return parts.join("/");
}

/** Import cycles among `files` that exist at run time, each as `a → b → a`. */
export function findCycles(files: Files): string[] {
  const cycles: string[] = [];
  const finished = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    const start = path.indexOf(file);
    if (start !== -1) {
      cycles.push([...path.slice(start), file].join(" → "));
      return;
    }
    if (finished.has(file)) return;
    path.push(file);
    for (const { specifier, isTypeOnly } of importsOf(files.get(file)!)) {
      const target = resolveImport(file, specifier);
      if (!isTypeOnly && target !== null && files.has(target)) visit(target);
    }
    path.pop();
    finished.add(file);
  };
  for (const file of files.keys()) visit(file);
  return cycles;
}

/** The files that no chain of imports or worker entries leads to from `roots`. */
export function findUnreached(files: Files, roots: readonly string[]): string[] {
  const reached = new Set<string>();
  const queue = roots.filter((root) => files.has(root));
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (reached.has(file)) continue;
    reached.add(file);
    const text = files.get(file)!;
    const specifiers = [...importsOf(text).map((one) => one.specifier), ...workerEntriesOf(text)];
    for (const specifier of specifiers) {
      const target = resolveImport(file, specifier);
      if (target !== null && files.has(target)) queue.push(target);
    }
  }
  return [...files.keys()].filter((file) => !reached.has(file));
}
