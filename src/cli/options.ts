/** Parsers of option values: the message names the option, the value, and what would do. */
import { execFileSync } from "node:child_process";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes, GIB, hostAddress, imageOffset, KIB, MIB } from "../base/units.ts";
import type { SocketOwner } from "../daemon/socket-file.ts";
import { isLoopbackAddress } from "../daemon/tcp-listener.ts";
import type { SpinMode } from "../pager/pacing.ts";
import type { GuestRegion } from "../snapshot/regions.ts";

function badValue(option: string, value: string, wanted: string): FaultlineError {
  return new FaultlineError("bad-option", `${option} ${value} cannot be used: give ${wanted}.`);
}

/** A parser for whole numbers from `least` to `most`. */
export function wholeNumber(
  option: string,
  least: number,
  most: number,
): (value: string) => number {
  return (value) => {
    const number = Number(value);
    if (/^-?\d+$/.test(value) && number >= least && number <= most) return number;
    throw badValue(option, value, `a whole number from ${least} to ${most}`);
  };
}

/** A parser for a time in seconds, whole or not. */
export function seconds(option: string, least: number, most: number): (value: string) => number {
  return (value) => {
    const number = Number(value);
    if (/^\d+(\.\d+)?$/.test(value) && number >= least && number <= most) return number;
    throw badValue(option, value, `a time from ${least} to ${most} seconds`);
  };
}

/** A parser for one of some words. */
export function oneOf<const Word extends string>(
  option: string,
  words: readonly Word[],
): (value: string) => Word {
  return (value) => {
    const found = words.find((word) => word === value);
    if (found !== undefined) return found;
    throw badValue(option, value, words.join(" or "));
  };
}

/** A parser for words with commas between, each once; of `known` if that is given. */
export function words<const Word extends string = string>(
  option: string,
  known?: readonly Word[],
): (value: string) => readonly Word[] {
  return (value) => {
    const given = value.split(",") as Word[];
    const isKnown = given.every((word) => known?.includes(word) ?? word !== "");
    if (isKnown && new Set(given).size === given.length) return given;
    const choice = known === undefined ? "names" : `some of ${known.join(",")}`;
    throw badValue(option, value, `${choice}, each once, with commas between`);
  };
}

const sizeUnits: Readonly<Record<string, number>> = { "": 1, K: KIB, M: MIB, G: GIB };

/** A parser for a power of two of bytes: `65536`, `64K`, `64KiB`, `1M`. */
export function powerOfTwo(option: string, least: number, most: number): (value: string) => number {
  return (value) => {
    const [, digits, unit = ""] = /^(\d+)(?:([KMG])(?:i?B)?)?$/i.exec(value) ?? [];
    const bytes = Number(digits) * sizeUnits[unit.toUpperCase()]!;
    if (bytes >= least && bytes <= most && Number.isInteger(Math.log2(bytes))) return bytes;
    const range = `from ${formatBytes(least)} to ${formatBytes(most)}`;
    throw badValue(option, value, `a power of two ${range}, such as 256K`);
  };
}

const number = "(0x[0-9a-f]+|\\d+)";
const REGION = new RegExp(`^${number}:${number}:${number}$`, "i");

/** `BASE:SIZE:OFFSET` in bytes, decimal or hexadecimal; added to those before. */
export function memoryRegion(value: string, all: readonly GuestRegion[]): readonly GuestRegion[] {
  const [base, sizeBytes, offset] = (REGION.exec(value) ?? []).slice(1).map(Number);
  const isGood = [base, sizeBytes, offset].every((each) => Number.isSafeInteger(each));
  if (base === undefined || sizeBytes === undefined || offset === undefined || !isGood) {
    const wanted = "BASE:SIZE:OFFSET in bytes, such as 0x7f0000000000:0x40000000:0";
    throw badValue("--region", value, wanted);
  }
  const region = {
    baseHostAddress: hostAddress(base),
    sizeBytes,
    imageOffset: imageOffset(offset),
  };
  return [...all, region];
}

/** A second of busy-waiting is far beyond any use. */
const LONGEST_SPIN_US = 1_000_000;

export function spinMode(value: string): SpinMode {
  if (value === "auto" || value === "off") return value;
  const number = Number(value);
  if (/^\d+$/.test(value) && number <= LONGEST_SPIN_US) return number;
  throw badValue("--spin", value, `auto, off, or microseconds up to ${LONGEST_SPIN_US}`);
}

/** 2^32 - 1 is chown(2)'s “leave as it is”. */
const LARGEST_ID = 2 ** 32 - 2;

/** `USER[:GROUP]`, by name or number. Without a group: the user's own. */
export function socketOwner(value: string): SocketOwner {
  const [user = "", group, ...more] = value.split(":");
  const uid = lookUp("-u", user);
  const gid = group === undefined ? lookUp("-g", user) : lookUpGroup(group);
  if (uid === null || gid === null || more.length > 0) {
    throw badValue("--owner", value, "USER or USER:GROUP, as names or numbers that exist");
  }
  return { uid, gid };
}

function asId(digits: string): number | null {
  return Number(digits) <= LARGEST_ID ? Number(digits) : null;
}

/** `id` asks every source of users that the system has (files, LDAP, …). */
function lookUp(flag: "-u" | "-g", user: string): number | null {
  const isNumber = /^\d+$/.test(user);
  if (isNumber && flag === "-u") return asId(user);
  // A number that is nobody's stands for a group of the same number.
  return run("id", [flag, "--", user]) ?? (isNumber ? asId(user) : null);
}

function lookUpGroup(group: string): number | null {
  if (/^\d+$/.test(group)) return asId(group);
  return run("sh", ["-c", 'getent group -- "$1" | cut -d: -f3', "sh", group]);
}

function run(command: string, args: readonly string[]): number | null {
  try {
    const output = execFileSync(command, args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      timeout: 5000,
    });
    return /^\d+\s*$/.test(output) ? Number(output) : null;
  } catch {
    return null;
  }
}

/** A parser for an address that only this host can reach. */
export function loopbackAddress(value: string): string {
  if (isLoopbackAddress(value)) return value;
  throw new FaultlineError(
    "bad-option",
    `--dashboard ${value} cannot be used: give an address and a port (up to 65535) of this ` +
      "host's loopback, such as 127.0.0.1:7433, as there is no encryption. From elsewhere, reach " +
      "it by `ssh -L 7433:127.0.0.1:7433 HOST`.",
  );
}
