/**
 * Command lines that cannot work: each ends with its exit code, and says what, which and what to
 * do.
 */
import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { PAGE_BYTES, TestFolder, writeFull, writeSparse } from "../support/fixtures.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const PAGE_COUNT = 64;
const SIZE_BYTES = PAGE_COUNT * PAGE_BYTES;

const folder = new TestFolder();
const memory = folder.at("memory");
const socket = folder.at("socket");
const goodFlags = ["--memory", memory, "--socket", socket];

before(() => {
  writeFull(memory, PAGE_COUNT);
  chmodSync(folder.path, 0o755);
});

after(() => folder[Symbol.dispose]());

/** Runs to the end. The message must hold every one of `parts`, and nothing may be left behind. */
async function assertRefused(
  args: readonly string[],
  code: ExitCode,
  parts: readonly string[],
  uid?: number,
): Promise<void> {
  const serve = await ServeProcess.run(args, uid === undefined ? {} : { uid });
  assert.deepEqual(serve.exit, { code, signal: null }, serve.errors);
  for (const part of parts) assert.ok(serve.errors.includes(part), `“${part}”: ${serve.errors}`);
  assert.doesNotMatch(serve.errors, /internal error|^\s+at /m);
  assert.equal(existsSync(socket), false, "the socket is left behind");
}

describe("a memory file that cannot be served", () => {
  const cases: readonly {
    readonly what: string;
    readonly make: (path: string) => void;
    readonly parts: readonly string[];
  }[] = [
    { what: "missing", make: () => {}, parts: ["cannot be opened", "ENOENT", "Give one that"] },
    { what: "empty", make: (path) => writeFileSync(path, ""), parts: ["is empty", "Was the"] },
    { what: "a folder", make: (path) => mkdirSync(path), parts: ["not a regular file", "Give"] },
    {
      what: "truncated",
      make: (path) => writeFileSync(path, Buffer.alloc(5000)),
      parts: ["has 5000 bytes, no multiple of 4096", "truncated"],
    },
  ];
  for (const { what, make, parts } of cases) {
    test(`${what}, as base`, async () => {
      const path = folder.at(`base ${what}`);
      make(path);
      const said = ["The memory file", path, ...parts];
      await assertRefused(["--memory", path, "--socket", socket], ExitCode.badSnapshot, said);
    });

    test(`${what}, as layer`, async () => {
      const path = folder.at(`layer ${what}`);
      make(path);
      const said = ["The layer", path, ...parts];
      await assertRefused([...goodFlags, "--layer", path], ExitCode.badSnapshot, said);
    });
  }

  test("not ours to read", requires("unprivileged-user"), async () => {
    const path = folder.at("secret");
    writeFileSync(path, Buffer.alloc(SIZE_BYTES), { mode: 0o600 });
    const said = ["The memory file", path, "EACCES", "this user may read"];
    const args = ["--memory", path, "--socket", socket];
    await assertRefused(args, ExitCode.badSnapshot, said, UNPRIVILEGED_UID);
  });

  test("a layer of another size", async () => {
    const path = folder.at("short-layer");
    writeSparse(path, PAGE_COUNT - 1, [], 1);
    const said = [path, `has ${SIZE_BYTES - PAGE_BYTES} bytes`, memory, `${SIZE_BYTES}`, "check"];
    await assertRefused([...goodFlags, "--layer", path], ExitCode.badSnapshot, said);
  });
});

describe("a socket path that cannot be used", () => {
  const refuse = (path: string, parts: readonly string[], uid?: number) =>
    assertRefused(["--memory", memory, "--socket", path], ExitCode.badSocket, parts, uid);

  test("too long", async () => {
    const path = folder.at("x".repeat(108 - folder.path.length));
    await refuse(path, [path, "has 109 bytes; the kernel takes at most 107", "Choose a shorter"]);
  });

  test("in a folder that is not there", async () => {
    const missing = folder.at("missing");
    await refuse(join(missing, "socket"), [missing, `Create it: mkdir -p ${missing}`, "ENOENT"]);
  });

  test("a regular file, which stays as it was", async () => {
    const path = folder.at("precious");
    writeFileSync(path, "data");
    await refuse(path, [path, "is no socket", "Choose another path"]);
    assert.equal(readFileSync(path, "utf8"), "data");
  });

  test("a folder", async () => {
    await refuse(folder.path, [folder.path, "is no socket", "Choose another path"]);
  });

  for (const path of ["", "@abstract"]) {
    test(`no path of a file: ${JSON.stringify(path)}`, async () => {
      await refuse(path, [JSON.stringify(path), "Give the path of a file"]);
    });
  }

  test(
    "in a folder where this user may not create files",
    requires("unprivileged-user"),
    async () => {
      const path = folder.at("denied");
      await refuse(path, [path, "cannot be created", "EACCES"], UNPRIVILEGED_UID);
    },
  );

  test("served by another serve, which goes on", requires("userfaultfd", "cc"), async () => {
    const own = mkdtempSync(join(tmpdir(), "faultline-test-"));
    try {
      const path = join(own, "socket");
      await using first = await ServeProcess.start(["--memory", memory, "--socket", path]);
      await refuse(path, [path, "Another process serves on", "Stop it, or choose another path"]);
      await runVmm(path, memory);
      assert.equal(first.exit, null);
    } finally {
      rmSync(own, { recursive: true });
    }
  });
});

describe("an option that cannot be used", () => {
  const refuse = (args: readonly string[], parts: readonly string[]) =>
    assertRefused(args, ExitCode.usage, parts);

  test("unknown", async () => {
    await refuse([...goodFlags, "--sokcet", "x"], ["unknown option", "--sokcet", "--help"]);
  });

  test("missing --memory, missing --socket", async () => {
    await refuse(["--socket", socket], ["--memory", "not specified", "--help"]);
    await refuse(["--memory", memory], ["--socket", "not specified", "--help"]);
  });

  test("without its value", async () => {
    await refuse([...goodFlags, "--workers"], ["--workers", "argument missing"]);
  });

  test("a word that belongs to no option", async () => {
    await refuse([...goodFlags, "more"], ["too many arguments", "--help"]);
  });

  const ranges: readonly (readonly [option: string, range: string, bad: readonly string[]])[] = [
    ["--workers", "a whole number from 1 to 64", ["0", "65", "-1", "1.5", "1e1", "0x1", "", "١"]],
    ["--max-vms", "a whole number from 1 to 100000", ["0", "100001", "ten"]],
    ["--handshake-timeout", "a whole number from 1 to 600000", ["0", "600001", "5s"]],
    ["--drain-timeout", "a whole number from 0 to 86400", ["86401", "-1"]],
    ["--stats-interval", "a whole number from 1 to 86400", ["0", "86401", " 1"]],
    ["--spin", "auto, off, or microseconds up to 1000000", ["1000001", "on", "1.5"]],
  ];
  for (const [option, range, values] of ranges) {
    for (const value of values) {
      test(`${option} ${JSON.stringify(value)}`, async () => {
        await refuse([...goodFlags, option, value], [`${option} ${value} cannot be used`, range]);
      });
    }
  }

  const words: readonly (readonly [option: string, value: string, cure: string])[] = [
    ["--on-error", "nonsense", "give kill or poison"],
    ["--on-error", "KILL", "give kill or poison"],
    ["--log", "loud", "error or warn or info or debug or silent"],
    ["--log-format", "xml", "auto or text or json"],
    ["--owner", "no-such-user", "USER or USER:GROUP"],
    ["--owner", "0:no-such-group", "USER or USER:GROUP"],
    ["--owner", "--help", "USER or USER:GROUP"],
    ["--owner", "", "USER or USER:GROUP"],
    ["--owner", "0:0:0", "USER or USER:GROUP"],
    ["--owner", "4294967295", "USER or USER:GROUP"],
    ["--owner", "99999999999", "USER or USER:GROUP"],
  ];
  for (const [option, value, cure] of words) {
    test(`${option} ${JSON.stringify(value)}`, async () => {
      const said = [`${option} ${value} cannot be used`, cure];
      await refuse([...goodFlags, `${option}=${value}`], said);
    });
  }
});
