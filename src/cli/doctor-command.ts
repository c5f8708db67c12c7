/** Small pure pieces of the commands that doctor suggests: who runs them, on which kernel. */
import type { KernelReport } from "../uffd/probe.ts";

/** Compares the leading `major.minor` of a release such as `"6.18.44-fc-v669"`. */
export function isKernelAtLeast(release: string, version: string): boolean {
  const [major = 0, minor = 0] = release.split(/[.-]/).map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = version.split(".").map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

/** Puts sudo before a command, unless this user is root to the kernel already. */
export function asRoot({ user, confinement }: KernelReport, command: string): string {
  const isRoot = user.uid === 0 && confinement.isInitialUserNamespace !== false;
  return isRoot ? command : `sudo ${command}`;
}

/**
 * The user as a shell word, as the host knows it: a user namespace has names of its own, and names
 * from a directory service may hold a backslash.
 */
export function userWord({ user, confinement }: KernelReport): string {
  if (confinement.isInitialUserNamespace === false) return String(user.outerUid ?? user.uid);
  return /^[\w.@-]+$/.test(user.name) ? user.name : `'${user.name}'`;
}
