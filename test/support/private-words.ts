/** What must not stand in a file that others read: places of one machine only. PURE. */
import { lineAt } from "./source-text.ts";

// Put together, so that this file itself holds none of them.
const privateFolders = ["work", "root"].map((name) => `/${name}/`);
const registryHosts = [
  ["registry", "npmjs", "org"],
  ["registry", "yarnpkg", "com"],
  ["registry", "npmmirror", "com"],
  ["deb", "debian", "org"],
  ["proxy", "golang", "org"],
].map((parts) => parts.join("."));

/** `configuredHosts`: the registries that this very machine uses. */
export function privateWordViolations(
  file: string,
  text: string,
  configuredHosts: readonly string[] = [],
): string[] {
  const violations: string[] = [];
  for (const folder of privateFolders) {
    // Only where a path begins: a folder of that name further down is nobody's secret.
    const match = new RegExp(`(?<![\\w.~$}/-])${folder}`).exec(text);
    if (match !== null) {
      violations.push(`${file}:${lineAt(text, match.index)} names the folder ${folder}`);
    }
  }
  for (const host of [...registryHosts, ...configuredHosts]) {
    const index = text.indexOf(host);
    if (index !== -1) {
      violations.push(`${file}:${lineAt(text, index)} names the package registry ${host}`);
    }
  }
  return violations;
}

/** The host of a registry's URL, or nothing if there is no URL. */
export function hostOf(url: string | undefined): string[] {
  const host = url === undefined || !URL.canParse(url) ? "" : new URL(url).hostname;
  return host === "" || host === "localhost" ? [] : [host];
}
