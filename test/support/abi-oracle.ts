/**
 * Asks a C compiler for the kernel's constants and layouts, to compare ours with.
 *
 * The C is generated from the exports of src/linux/abi-*.ts, so a new constant is compared without
 * further ado. A name that the installed headers lack must not spoil the rest: a first run of the
 * compiler, on one declaration per line, tells by its error lines which names those are.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { compile, runCompiler, writeSource } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";

/** One number of ours, and what C calls it. */
export interface Fact {
  /** What it belongs to: the constant itself, or `struct x` for its size and offsets. */
  readonly subject: string;
  readonly expression: string;
  readonly ours: number;
}

export interface Answers {
  /** By expression. What is not there is unknown to the headers. */
  readonly values: ReadonlyMap<string, number>;
  /** Of the kernel headers: `[6, 1]`. */
  readonly headerVersion: readonly [number, number];
}

const HEADERS = [
  "stddef.h",
  "stdio.h",
  "errno.h",
  "fcntl.h",
  "sched.h",
  "signal.h",
  "time.h",
  "unistd.h",
  "netinet/in.h",
  "sys/epoll.h",
  "sys/eventfd.h",
  "sys/file.h",
  "sys/ioctl.h",
  "sys/mman.h",
  "sys/prctl.h",
  "sys/socket.h",
  "sys/syscall.h",
  "sys/time.h",
  "sys/uio.h",
  "sys/un.h",
  "linux/fs.h",
  "linux/kcmp.h",
  "linux/kvm.h",
  "linux/memfd.h",
  "linux/mman.h",
  "linux/sockios.h",
  "linux/userfaultfd.h",
  "linux/version.h",
];
const PREAMBLE = [
  "#define _GNU_SOURCE",
  ...HEADERS.map((header) => `#include <${header}>`),
  // Headers before Linux 6.2 define a struct here that libc has too.
  "#define sched_param kernel_sched_param",
  "#include <linux/sched/types.h>",
  "#undef sched_param",
  // What distributions' headers lack, told by us in C.
  `#include "${join(repositoryRoot, "test/abi/kvm-userfault.h")}"`,
];

/** Names of ours that C has no word for. */
const EXPRESSIONS: Readonly<Record<string, string>> = {
  SUN_PATH_MAX: "sizeof(((struct sockaddr_un *)0)->sun_path) - 1",
};

interface Layout {
  readonly size: number;
  readonly offset: Readonly<Record<string, number>>;
}

function isLayout(value: unknown): value is Layout {
  return typeof value === "object" && value !== null && "size" in value && "offset" in value;
}

/** The facts that a module states by its exports: numbers are macros, `struct()` are structures. */
export function factsOf(exports: Readonly<Record<string, unknown>>): Fact[] {
  const facts: Fact[] = [];
  for (const [name, value] of Object.entries(exports)) {
    if (typeof value === "number") {
      facts.push({ subject: name, expression: EXPRESSIONS[name] ?? name, ours: value });
    } else if (isLayout(value)) {
      const subject = `struct ${name}`;
      facts.push({ subject, expression: `sizeof(${subject})`, ours: value.size });
      for (const [field, ours] of Object.entries(value.offset)) {
        facts.push({ subject, expression: `offsetof(${subject}, ${field})`, ours });
      }
    }
  }
  return facts;
}

export function askCompiler(facts: readonly Fact[]): Answers {
  const declarations = facts.map(
    ({ expression }, index) =>
      `unsigned long long fact${index} = (unsigned long long)(${expression});`,
  );
  const probe = writeSource("abi-probe.c", [...PREAMBLE, ...declarations].join("\n"));
  const { messages } = runCompiler(["-fsyntax-only", "-w", probe]);
  const missing = new Set(errorLines(messages).map((line) => line - PREAMBLE.length - 1));
  if ([...missing].some((index) => index < 0)) throw new Error(`No headers:\n${messages}`);
  const known = facts.filter((_, index) => !missing.has(index));
  const prints = known.map(
    ({ expression }) => `  printf("%llu\\n", (unsigned long long)(${expression}));`,
  );
  const version = `  printf("%d\\n", LINUX_VERSION_CODE);`;
  const program = [...PREAMBLE, "int main(void) {", version, ...prints, "  return 0;", "}", ""];
  const oracle = compile(writeSource("abi-oracle.c", program.join("\n")));
  const { stdout } = spawnSync(oracle, { encoding: "utf8" });
  const [versionCode, ...numbers] = stdout.trim().split("\n").map(Number);
  return {
    values: new Map(known.map(({ expression }, index) => [expression, numbers[index]!])),
    headerVersion: [versionCode! >>> 16, (versionCode! >>> 8) & 0xff],
  };
}

/** The lines of the source in which the compiler found errors: `x.c:12:3: error: …`. */
export function errorLines(messages: string): number[] {
  return [...messages.matchAll(/^[^:\n]+:(\d+):(?:\d+:)? (?:fatal )?error:/gm)].map((match) =>
    Number(match[1]),
  );
}

export interface Verdict {
  readonly comparedCount: number;
  readonly mismatches: readonly string[];
  /** Subjects that these headers are too old for. */
  readonly tooNew: readonly string[];
  /** Subjects that these headers ought to have: misspelt, or from another header. */
  readonly unknown: readonly string[];
}

/** `since`: the kernel version that brought a subject, for those newer than common headers. */
export function judge(
  facts: readonly Fact[],
  answers: Answers,
  since: Readonly<Record<string, string>>,
): Verdict {
  const mismatches: string[] = [];
  const tooNew = new Set<string>();
  const unknown = new Set<string>();
  let comparedCount = 0;
  for (const { subject, expression, ours } of facts) {
    const theirs = answers.values.get(expression);
    if (theirs === undefined) {
      const version = since[subject];
      const isTooNew = version !== undefined && isBefore(answers.headerVersion, version);
      (isTooNew ? tooNew : unknown).add(subject);
      continue;
    }
    comparedCount++;
    if (theirs !== ours) mismatches.push(`${expression} is ${theirs} in C and ${ours} here`);
  }
  return { comparedCount, mismatches, tooNew: [...tooNew], unknown: [...unknown] };
}

function isBefore([major, minor]: readonly [number, number], version: string): boolean {
  const [otherMajor = 0, otherMinor = 0] = version.split(".").map(Number);
  return major < otherMajor || (major === otherMajor && minor < otherMinor);
}
