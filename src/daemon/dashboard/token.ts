/**
 * What a browser has to show on the TCP port, where no file mode says who may connect: anybody on
 * this host could. It lies beside the control socket, for the daemon's user alone, and is the same
 * for all pagers of a daemon, and for the next daemon in the folder.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const TOKEN_BYTES = 32;
const TOKEN = /^[A-Za-z0-9_-]{43}$/;

export function newToken(): string {
  return randomBytes(TOKEN_BYTES).toString("base64url");
}

export function tokenPathIn(runFolder: string): string {
  return join(runFolder, "dashboard.token");
}

/** The one that is there, or a new one. */
export function tokenIn(runFolder: string): string {
  const path = tokenPathIn(runFolder);
  const known = readOrNull(path);
  if (known !== null && TOKEN.test(known)) return known;
  const token = newToken();
  const draft = `${path}.${process.pid}`;
  rmSync(draft, { force: true });
  writeFileSync(draft, `${token}\n`, { mode: 0o600, flag: "wx" });
  renameSync(draft, path);
  return token;
}

/** In a time that does not tell how much of it is right. */
export function isToken(given: string, token: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(token));
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return null;
  }
}
