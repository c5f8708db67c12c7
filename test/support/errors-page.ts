/** Reads docs/ERRORS.md and compares it with the table in src/base/errors.ts. PURE. */

export interface DocumentedError {
  readonly exitCode: number;
  readonly meaning: string;
  readonly cure: string;
}

/** The rows of the page's table of codes: `| \`code\` | exit code | meaning | cure |`. */
export function documentedErrors(page: string): Map<string, DocumentedError> {
  const rows = page.matchAll(/^\| `([a-z-]+)` \| (\d+) \| ([^|]+) \| ([^|]+) \|$/gm);
  return new Map(
    [...rows].map(([, code, exitCode, meaning, cure]) => [
      code!,
      { exitCode: Number(exitCode), meaning: meaning!.trim(), cure: cure!.trim() },
    ]),
  );
}

/** Every difference between the page and the code's own table. */
export function errorPageViolations(
  page: string,
  table: Readonly<Record<string, readonly [number, string]>>,
): string[] {
  const documented = documentedErrors(page);
  const violations: string[] = [];
  for (const [code, [exitCode, meaning]] of Object.entries(table)) {
    const row = documented.get(code);
    if (row === undefined) violations.push(`docs/ERRORS.md lacks ${code}`);
    else if (row.exitCode !== exitCode) {
      violations.push(
        `docs/ERRORS.md says exit code ${row.exitCode} for ${code}: it is ${exitCode}`,
      );
    } else if (row.meaning !== meaning) {
      violations.push(`docs/ERRORS.md and src/base/errors.ts differ in what ${code} means`);
    }
  }
  for (const code of documented.keys()) {
    if (!(code in table)) violations.push(`docs/ERRORS.md has ${code}, which does not exist`);
  }
  return violations;
}
