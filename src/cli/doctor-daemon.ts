/**
 * What `faultline daemon` needs beyond `serve`: descriptors for all of its sessions, a folder for
 * its sockets, and rights over VMs of other users. PURE; a daemon for one's own few VMs can do
 * without any of it, so nothing here is ever `missing`.
 */
import type { KernelReport } from "../uffd/probe.ts";
import { openFilesFix } from "./doctor-access.ts";
import { asRoot, userWord } from "./doctor-command.ts";
import type { Finding } from "./doctor-report.ts";

/** What the supervisor keeps of a session while its VM connects: it has the most of all three. */
const SESSION_FDS = 6;
/** What the supervisor has besides, and its reserve for a reload. */
const OTHER_FDS = 128;
/** The daemon's own default of maxSessions. */
const DEFAULT_SESSIONS = 1024;
const WANTED_FDS = 65_536;

export function daemonFindings(report: KernelReport): Finding[] {
  return [sessions(report), runFolder(report), rights(report)];
}

/** Node raises the soft limit to the hard one: only that counts. */
function sessions(report: KernelReport): Finding {
  const name = "daemon-sessions";
  const { openFilesHard: hard } = report.limits;
  if (hard === null) return { name, status: "optional", detail: "Unknown: no /proc/self/limits." };
  const count = Math.max(0, Math.floor((hard - OTHER_FDS) / SESSION_FDS));
  const detail = `RLIMIT_NOFILE has room for ${count} sessions of a daemon.`;
  if (count >= DEFAULT_SESSIONS) return { name, status: "ok", detail };
  const fix = openFilesFix(report, WANTED_FDS);
  const wanted = `${detail} It takes ${DEFAULT_SESSIONS} unless told otherwise (maxSessions).`;
  return { name, status: "optional", detail: wanted, ...(fix === undefined ? {} : { fix }) };
}

function runFolder(report: KernelReport): Finding {
  const name = "daemon-run-folder";
  const folder = report.user.runFolder;
  if (folder === null) {
    const detail = "None: XDG_RUNTIME_DIR is not set. Name one with --run-folder FOLDER.";
    return { name, status: "optional", detail };
  }
  if (folder.isWritable) return { name, status: "ok", detail: `${folder.path} can be used.` };
  const fix = asRoot(report, `install -d -o ${userWord(report)} ${folder.path}`);
  const detail = `${folder.path} cannot be written to by this user.`;
  return { name, status: "optional", detail, fix };
}

function rights({ user }: KernelReport): Finding {
  const name = "daemon-rights";
  const lacks = [
    user.hasCapKill === false && "CAP_KILL: VMs of other users cannot be killed by policy",
    user.hasCapChown === false && "CAP_CHOWN: sockets cannot be given to other users",
  ].filter((reason) => reason !== false);
  if (lacks.length === 0) {
    return { name, status: "ok", detail: "VMs may run as other users than the daemon." };
  }
  const cure = "Give them as packaging/faultline.service does: AmbientCapabilities=.";
  return { name, status: "optional", detail: `Lacks ${lacks.join("; ")}. ${cure}` };
}
