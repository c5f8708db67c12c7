/** The import law of docs/ARCHITECTURE.md as data: which folder may import which. PURE. */
import { type Files, importsOf, resolveImport } from "./imports.ts";
import { parseSource } from "./source-text.ts";

interface FolderLaw {
  /** Folders, or single files (`linux/fd`). */
  readonly mayImport: readonly string[];
  readonly mayImportTypes?: readonly string[];
  /** Imports nothing from Node or npm, and knows no clock and no chance. */
  readonly isPure?: boolean;
}

const EVERYTHING_BELOW_DAEMON = [
  "engine",
  "protocol",
  "pager",
  "source",
  "snapshot",
  "uffd",
  "linux",
  "base",
];

/** Every folder of src/. `src/index.ts` and `cli` may import anything, and nobody imports `cli`. */
export const folderLaws: Readonly<Record<string, FolderLaw>> = {
  base: { mayImport: [], isPure: true },
  linux: { mayImport: ["base"] },
  uffd: { mayImport: ["linux", "base"] },
  snapshot: { mayImport: ["base"] },
  source: {
    mayImport: [
      "snapshot",
      "base",
      "linux/memory",
      "linux/file",
      "linux/fd",
      "linux/clock",
      "linux/zstd",
    ],
  },
  image: { mayImport: ["source", "snapshot", "linux", "base"] },
  pager: { mayImport: ["base"], mayImportTypes: ["snapshot"], isPure: true },
  protocol: { mayImport: ["linux", "snapshot/regions", "base"] },
  engine: { mayImport: ["uffd", "linux", "pager", "protocol", "source", "snapshot", "base"] },
  trace: { mayImport: ["base"], isPure: true },
  // It must not crash with what it supervises.
  supervisor: { mayImport: ["linux", "base"] },
  report: { mayImport: ["base"], isPure: true },
  daemon: { mayImport: ["supervisor", "report", "trace", ...EVERYTHING_BELOW_DAEMON] },
  tinyvm: { mayImport: ["linux", "uffd", "base"] },
  kit: { mayImport: ["linux", "base"] },
  conformance: { mayImport: ["kit", "tinyvm", "uffd", "linux", "base"] },
  bench: { mayImport: ["kit", "linux", "base"] },
  sim: { mayImport: ["pager", "snapshot", "base"], isPure: true },
  cli: {
    mayImport: [
      "daemon",
      "supervisor",
      "trace",
      "report",
      "image",
      "tinyvm",
      "sim",
      "kit",
      "conformance",
      "bench",
      ...EVERYTHING_BELOW_DAEMON,
    ],
  },
};

/** Packages that belong to one file. */
const packageOwners: Readonly<Record<string, string>> = {
  koffi: "src/linux/sys.ts",
  uplot: "dashboard/plots.ts",
};

/** The dashboard's page runs in browsers: it knows what the daemon says to it, and no more. */
const PAGE = "dashboard";
const pageLaw: FolderLaw = { mayImport: ["base", "daemon/dashboard/protocol"] };

const WHERE = "(docs/ARCHITECTURE.md#import-law)";
const IMPURE = /\b(?:Date\b|performance\b|Math\.random\b|process\.|setTimeout\b|setInterval\b)/;

/** What breaks the law, each as a sentence. */
export function importViolations(files: Files): string[] {
  return [...files].flatMap(([file, text]) => fileViolations(file, text));
}

function fileViolations(file: string, text: string): string[] {
  const folder = /^src\/([^/]+)\//.exec(file)?.[1] ?? (isOfPage(file) ? PAGE : null);
  const law = folder === PAGE ? pageLaw : folder === null ? undefined : folderLaws[folder];
  if (folder !== null && law === undefined) {
    return [`${file} lies in a folder that the import law does not know ${WHERE}`];
  }
  const violations: string[] = [];
  for (const { specifier, isTypeOnly } of importsOf(text)) {
    const reason = whyForbidden(file, folder, law, specifier, isTypeOnly);
    if (reason !== null) violations.push(`${file} imports ${specifier}: ${reason} ${WHERE}`);
  }
  const impure = law?.isPure === true ? IMPURE.exec(parseSource(text).code) : null;
  if (impure !== null) violations.push(`${file} uses ${impure[0]}: ${folder}/ is pure ${WHERE}`);
  return violations;
}

function whyForbidden(
  file: string,
  folder: string | null,
  law: FolderLaw | undefined,
  specifier: string,
  isTypeOnly: boolean,
): string | null {
  const target = resolveImport(file, specifier);
  if (target === null) {
    const owner = packageOwners[specifier];
    if (owner !== undefined) return owner === file ? null : `only ${owner} may`;
    if (folder === PAGE) return `${PAGE}/ runs in browsers`;
    return law?.isPure === true ? `${folder}/ is pure` : null;
  }
  if (folder === PAGE && isOfPage(target)) return null;
  const path = /^src\/(.+)\.ts$/.exec(target)?.[1];
  if (path === undefined) {
    return folder !== null && folder !== "cli" ? "src/ stands by itself" : null;
  }
  const targetFolder = path.split("/")[0]!;
  if (targetFolder === folder) return null;
  if (targetFolder === "cli") return file.startsWith("src/") ? "nobody imports cli/" : null;
  if (law === undefined) return null;
  const allows = (names: readonly string[] = []): boolean =>
    names.includes(targetFolder) || names.includes(path);
  if (allows(law.mayImport)) return null;
  if (allows(law.mayImportTypes)) {
    return isTypeOnly ? null : `${folder}/ may import types of ${targetFolder}/ only`;
  }
  return `${folder}/ may import ${list(law.mayImport)}`;
}

function isOfPage(file: string): boolean {
  return file.startsWith(`${PAGE}/`);
}

function list(names: readonly string[]): string {
  return names.length === 0 ? "nothing" : `only ${names.join(", ")}`;
}
