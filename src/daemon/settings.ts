/**
 * The daemon's configuration: one JSON file, every field with a default, and command line options
 * above it. Whatever is wrong is told with the field's name before anything is started.
 */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import * as v from "valibot";
import { FaultlineError } from "../base/errors.ts";
import { errorPolicies } from "../engine/wire.ts";
import { logFormats, logLevels } from "./log.ts";
import { prefaultModes } from "./prefault-mode.ts";
import { isAddress, isLoopbackAddress } from "./tcp-listener.ts";

const wholeNumber = (least: number, most: number) =>
  v.pipe(v.number(), v.integer(), v.minValue(least), v.maxValue(most));
const path = v.pipe(v.string(), v.nonEmpty(), v.startsWith("/", "must be an absolute path"));
/** 2^32 - 1 is chown(2)'s “leave as it is”. */
const userId = wholeNumber(0, 2 ** 32 - 2);

const loopbackRule =
  "must be an address and a port (up to 65535) of this host's loopback, such as 127.0.0.1:7433: " +
  "there is no encryption. " +
  "From elsewhere, reach it by `ssh -L 7433:127.0.0.1:7433 HOST`";

const settings = v.strictObject({
  /** For the control socket, the sockets of sessions, and the lock. */
  runFolder: v.optional(path),
  /** Who may use the control socket besides root: its owner and mode. */
  controlOwner: v.optional(v.strictObject({ uid: userId, gid: userId })),
  controlMode: v.optional(v.pipe(v.string(), v.regex(/^0[0-7]{3}$/, "must be like 0660")), "0600"),
  /** Memory files, and stores in folders, may lie in these folders and nowhere else. */
  memoryFolders: v.optional(v.array(path), []),
  /** Stores of images; the first is meant by an image without a place. */
  stores: v.optional(v.array(v.pipe(v.string(), v.nonEmpty())), []),
  /** Sockets of sessions may be created in these folders too, such as chroots of jailers. */
  socketFolders: v.optional(v.array(path), []),
  /** Who may connect to the sockets of sessions, besides root, this user and their owners. */
  allowedUids: v.optional(v.array(userId), []),
  cacheMiB: v.optional(wholeNumber(4, 65_536), 256),
  cacheFolder: v.optional(path),
  cacheFolderGiB: v.optional(wholeNumber(1, 65_536), 10),
  workers: v.optional(wholeNumber(1, 64), Math.min(4, Math.max(1, availableParallelism() - 1))),
  spin: v.optional(v.union([v.literal("auto"), v.literal("off"), wholeNumber(0, 1e6)]), "auto"),
  streams: v.optional(v.boolean(), true),
  collapse: v.optional(v.boolean(), false),
  maxSessions: v.optional(wholeNumber(1, 100_000), 1024),
  onError: v.optional(v.picklist(errorPolicies), "kill"),
  prefault: v.optional(v.picklist(prefaultModes), "concurrent"),
  connectWithinS: v.optional(wholeNumber(0, 86_400), 60),
  recordForS: v.optional(wholeNumber(0, 3600), 10),
  handshakeTimeoutMs: v.optional(wholeNumber(1, 600_000), 5000),
  drainTimeoutS: v.optional(wholeNumber(0, 86_400), 5),
  /** `HOST:PORT` for Prometheus, without any protection: a loopback address, as a rule. */
  metricsAddress: v.optional(v.pipe(v.string(), v.check(isAddress, "must be HOST:PORT"))),
  /** `HOST:PORT` for the dashboard in browsers; they need the token, and come from this host. */
  dashboardAddress: v.optional(v.pipe(v.string(), v.check(isLoopbackAddress, loopbackRule))),
  log: v.optional(v.picklist(logLevels), "info"),
  logFormat: v.optional(v.picklist(logFormats), "auto"),
});

type Given = v.InferInput<typeof settings>;
export type DaemonSettings = v.InferOutput<typeof settings> & { readonly runFolder: string };

/** By name, with what holds if nothing else is said. */
export const settingDefaults: Readonly<Record<string, unknown>> = v.getDefaults(settings);

/** Where the settings come from, so that a new pager can read them anew. */
export interface SettingsSource {
  readonly file: string | null;
  /** Options of the command line: they win. */
  readonly overrides: Given;
}

/** Of what is wrong, so much is told. */
const MAX_ISSUES = 5;

/** @throws FaultlineError `bad-request`: the field, its value, and what it may be */
export function loadSettings({ file, overrides }: SettingsSource): DaemonSettings {
  const fromFile = file === null ? {} : readJson(file);
  const parsed = v.safeParse(settings, { ...fromFile, ...overrides });
  const where = file === null ? "The configuration" : `The configuration ${file}`;
  if (!parsed.success) {
    const issues = parsed.issues.slice(0, MAX_ISSUES).map(describeIssue).join("; ");
    throw new FaultlineError("bad-request", `${where} cannot be used: ${issues}.`);
  }
  const { runFolder = defaultRunFolder(), ...rest } = parsed.output;
  if (rest.memoryFolders.length + rest.stores.length === 0) {
    throw new FaultlineError(
      "bad-request",
      `${where} names no place of memory: set memoryFolders (--memory-folder FOLDER) or stores ` +
        "(--store STORE). Sessions can be made of what lies there, and of nothing else.",
    );
  }
  return { ...rest, runFolder };
}

/** As other daemons do: root's in /run, a user's in what the session manager gave him. */
export function defaultRunFolder(): string {
  if (process.geteuid?.() === 0) return "/run/faultline";
  const own = process.env.XDG_RUNTIME_DIR;
  if (own !== undefined && own !== "") return resolve(own, "faultline");
  throw new FaultlineError(
    "bad-request",
    "There is no folder for sockets: XDG_RUNTIME_DIR is not set. Name one: --run-folder FOLDER.",
  );
}

export function controlPathIn(runFolder: string): string {
  return resolve(runFolder, "control.sock");
}

function readJson(file: string): object {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw new FaultlineError(
      "bad-request",
      `The configuration ${file} cannot be read. Name one that exists: --config FILE`,
      { cause },
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FaultlineError("bad-request", `The configuration ${file} is no JSON`, { cause });
  }
  if (typeof json === "object" && json !== null && !Array.isArray(json)) return json;
  throw new FaultlineError("bad-request", `The configuration ${file} is no JSON object.`);
}

function describeIssue(issue: v.BaseIssue<unknown>): string {
  const field = v.getDotPath(issue) ?? "it";
  if (issue.type === "strict_object") return `there is no setting ${field}`;
  return `${field} is ${JSON.stringify(issue.input)?.slice(0, 80)}, ${issue.message}`;
}
