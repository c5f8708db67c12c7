/** Every constant and layout of src/linux/abi-*.ts, compared with what a C compiler says. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { runCompiler } from "../../src/kit/compile.ts";
import { builtRoot, repositoryRoot } from "../../src/kit/paths.ts";
import { abiOf } from "../../src/linux/abi-posix.ts";
import { _IO, _IOR, _IOW, _IOWR } from "../../src/linux/layout.ts";
import { askCompiler, errorLines, type Fact, factsOf, judge } from "../support/abi-oracle.ts";
import { requires } from "../support/requires.ts";

/** The kernel that brought what the headers of a current distribution may lack. */
const SINCE = {
  UFFD_FEATURE_WP_UNPOPULATED: "6.4",
  UFFDIO_CONTINUE_MODE_WP: "6.4",
  SO_PEERPIDFD: "6.5",
  SYS_cachestat: "6.5",
  "struct cachestat": "6.5",
  "struct cachestat_range": "6.5",
  UFFD_FEATURE_POISON: "6.6",
  UFFDIO_POISON: "6.6",
  _UFFDIO_POISON: "6.6",
  UFFDIO_POISON_MODE_DONTWAKE: "6.6",
  "struct uffdio_poison": "6.6",
  UFFD_FEATURE_WP_ASYNC: "6.7",
  PAGEMAP_SCAN: "6.7",
  PAGE_IS_WPALLOWED: "6.7",
  PAGE_IS_WRITTEN: "6.7",
  PAGE_IS_PRESENT: "6.7",
  PM_SCAN_WP_MATCHING: "6.7",
  PM_SCAN_CHECK_WPASYNC: "6.7",
  "struct pm_scan_arg": "6.7",
  "struct page_region": "6.7",
  UFFD_FEATURE_MOVE: "6.8",
  UFFDIO_MOVE: "6.8",
  _UFFDIO_MOVE: "6.8",
  UFFDIO_MOVE_MODE_DONTWAKE: "6.8",
  UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES: "6.8",
  "struct uffdio_move": "6.8",
} as const;

/** The registers of <linux/kvm.h> are the architecture's. */
const X64_ONLY = ["abi-kvm.js", "abi-kvm-userfault.js"];

const needs = requires("cc");

/** Compares, and says aloud what could not be compared. */
function compare(t: TestContext, facts: readonly Fact[]): void {
  const answers = askCompiler(facts);
  const verdict = judge(facts, answers, SINCE);
  assert.deepEqual(verdict.mismatches, []);
  const cure = "misspelt? else name its header in abi-oracle.ts, or its kernel in SINCE";
  assert.deepEqual(verdict.unknown, [], `unknown to these headers: ${cure}`);
  const headers = `headers ${answers.headerVersion.join(".")}`;
  t.diagnostic(`${t.name}: ${verdict.comparedCount} facts compared with ${headers}`);
  if (verdict.tooNew.length > 0) {
    t.diagnostic(`not compared, newer than ${headers}: ${verdict.tooNew.join(", ")}`);
  }
}

describe("the kernel's numbers", () => {
  const folder = join(builtRoot, "src", "linux");
  for (const name of readdirSync(folder).filter((file) => /^abi-.*\.js$/.test(file))) {
    const isForeign = X64_ONLY.includes(name) && process.arch !== "x64";
    const options = isForeign ? { skip: `${name} is of x86-64` } : needs;
    test(`${name} says what C says`, options, async (t) => {
      const facts = factsOf((await import(join(folder, name))) as Record<string, unknown>);
      assert.ok(facts.length > 0, "it states nothing");
      compare(t, facts);
    });
  }

  test("what differs between the architectures is right for this one", needs, (t) => {
    const { epoll_event, syscalls } = abiOf(process.arch);
    compare(t, factsOf({ epoll_event, ...syscalls }));
  });

  test("our C for what headers lack agrees with what they have", needs, () => {
    const header = join(repositoryRoot, "test/abi/kvm-userfault.h");
    assert.equal(runCompiler(["-fsyntax-only", "-Wall", "-x", "c", header]).messages, "");
  });

  test("_IO, _IOR, _IOW and _IOWR compute what the macros do", needs, (t) => {
    const facts: Fact[] = [
      { subject: "_IO", expression: "_IO(0xaa, 0x3f)", ours: _IO(0xaa, 0x3f) },
    ];
    for (const size of [1, 16, 4096, 16383]) {
      for (const [subject, compute] of Object.entries({ _IOR, _IOW, _IOWR })) {
        const expression = `${subject}('f', 255, char[${size}])`;
        facts.push({ subject, expression, ours: compute("f".charCodeAt(0), 255, size) });
      }
    }
    compare(t, facts);
  });

  test("an architecture without numbers is refused", () => {
    assert.throws(() => abiOf("mips"), /not of mips/);
  });
});

describe("the comparison itself", () => {
  const wrong = {
    UFFD_API: 0xab,
    uffdio_copy: { size: 41, offset: { dst: 0, src: 7 } },
    UFFDIO_MUVE: 1,
    uffdio_future: { size: 8, offset: {} },
  };

  test("finds a wrong constant, size and offset, and a name that C does not know", needs, () => {
    const facts = factsOf(wrong);
    const since = { "struct uffdio_future": "99.1" };
    const verdict = judge(facts, askCompiler(facts), since);
    assert.deepEqual(verdict.mismatches, [
      "UFFD_API is 170 in C and 171 here",
      "sizeof(struct uffdio_copy) is 40 in C and 41 here",
      "offsetof(struct uffdio_copy, src) is 8 in C and 7 here",
    ]);
    assert.deepEqual(verdict.unknown, ["UFFDIO_MUVE"]);
    assert.deepEqual(verdict.tooNew, ["struct uffdio_future"]);
    assert.equal(verdict.comparedCount, 4);
  });

  test("does not excuse a name that the headers are new enough for", () => {
    const facts = factsOf({ UFFDIO_MOVE: 1 });
    const answers = { values: new Map<string, number>(), headerVersion: [6, 8] as const };
    assert.deepEqual(judge(facts, answers, { UFFDIO_MOVE: "6.8" }).unknown, ["UFFDIO_MOVE"]);
    assert.deepEqual(judge(facts, answers, { UFFDIO_MOVE: "6.10" }).tooNew, ["UFFDIO_MOVE"]);
  });

  test("reads the compiler's error lines, and no others", () => {
    const messages = [
      "x.c:12:40: error: 'A' undeclared here (not in a function)",
      "x.c:13:1: warning: unused",
      "x.c:14: error: old style",
      "x.c:15:2: note: see",
      "x.c:16:10: fatal error: no/such.h: No such file or directory",
    ];
    assert.deepEqual(errorLines(messages.join("\n")), [12, 14, 16]);
  });
});
