/** Option values: what is taken, and that a refusal names the option, the value and the way out. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { ExitCode, FaultlineError } from "../../src/base/errors.ts";
import { oneOf, powerOfTwo, socketOwner, spinMode, wholeNumber } from "../../src/cli/options.ts";

function expectRefusal(attempt: () => unknown, ...words: readonly string[]): void {
  try {
    attempt();
  } catch (error) {
    assert.ok(error instanceof FaultlineError, String(error));
    assert.deepEqual([error.code, error.exitCode], ["bad-option", ExitCode.usage]);
    for (const word of words) {
      assert.ok(error.message.includes(word), `"${error.message}" lacks "${word}"`);
    }
    return;
  }
  assert.fail("it was taken");
}

describe("powerOfTwo", () => {
  const parse = powerOfTwo("--chunk-size", 4096, 4 * 1024 * 1024);

  test("takes bytes and units, in any case", () => {
    const values = ["4096", "4K", "64k", "256KiB", "256KB", "1M", "4MiB"];
    const wanted = [4096, 4096, 65536, 262144, 262144, 1048576, 4194304];
    assert.deepEqual(values.map(parse), wanted);
  });

  for (const value of ["", "0", "2K", "8M", "5K", "1.5M", "-4K", "4 K", "4T", "K", "4KK", "1G"]) {
    test(`refuses ${JSON.stringify(value)} and says what would do`, () => {
      const wanted = "a power of two from 4 KiB to 4 MiB, such as 256K";
      expectRefusal(() => parse(value), `--chunk-size ${value} `, wanted);
    });
  }
});

describe("wholeNumber", () => {
  const parse = wholeNumber("--workers", 1, 64);

  test("takes both ends of its range, and what lies between", () => {
    assert.deepEqual(["1", "2", "64", "007"].map(parse), [1, 2, 64, 7]);
  });

  for (const value of ["0", "65", "-1", "1.5", "1e1", "0x10", "", " 1", "1 ", "many", "∞"]) {
    test(`refuses ${JSON.stringify(value)} and says what would do`, () => {
      expectRefusal(() => parse(value), `--workers ${value} `, "a whole number from 1 to 64");
    });
  }

  test("refuses numbers that are not exact", () => {
    const large = wholeNumber("--size", 0, Number.MAX_SAFE_INTEGER);
    assert.equal(large("9007199254740991"), Number.MAX_SAFE_INTEGER);
    expectRefusal(() => large("9007199254740993"));
  });
});

describe("oneOf", () => {
  const parse = oneOf("--on-error", ["kill", "poison"]);

  test("takes its words", () => {
    assert.deepEqual(["kill", "poison"].map(parse), ["kill", "poison"]);
  });

  for (const value of ["", "Kill", "kill ", "wait", "toString"]) {
    test(`refuses ${JSON.stringify(value)} and lists them`, () => {
      expectRefusal(() => parse(value), "--on-error", value, "kill or poison");
    });
  }
});

describe("spinMode", () => {
  test("takes auto, off, and microseconds up to a second", () => {
    assert.deepEqual(["auto", "off", "0", "50", "1000000"].map(spinMode), [
      "auto",
      "off",
      0,
      50,
      1_000_000,
    ]);
  });

  for (const value of ["1000001", "-5", "on", "Auto", "1.5", "", "NaN", "Infinity"]) {
    test(`refuses ${JSON.stringify(value)}`, () => {
      expectRefusal(() => spinMode(value), `--spin ${value} `, "auto, off, or microseconds");
    });
  }
});

describe("socketOwner", () => {
  test("takes numbers without looking them up", () => {
    assert.deepEqual(socketOwner("1234:5678"), { uid: 1234, gid: 5678 });
    assert.deepEqual(socketOwner("0:0"), { uid: 0, gid: 0 });
    assert.deepEqual(socketOwner("4294967294:1"), { uid: 4_294_967_294, gid: 1 });
  });

  test("takes names of users and groups", () => {
    assert.deepEqual(socketOwner("root:root"), { uid: 0, gid: 0 });
    assert.deepEqual(socketOwner("root:5"), { uid: 0, gid: 5 });
    assert.deepEqual(socketOwner("7:root"), { uid: 7, gid: 0 });
  });

  test("a user without a group gets the user's own", () => {
    const nobody = Number(spawnSync("id", ["-u", "nobody"], { encoding: "utf8" }).stdout);
    const group = Number(spawnSync("id", ["-g", "nobody"], { encoding: "utf8" }).stdout);
    assert.deepEqual(socketOwner("nobody"), { uid: nobody, gid: group });
    assert.deepEqual(socketOwner("root"), { uid: 0, gid: 0 });
  });

  for (const value of [
    "",
    ":",
    ":root",
    "root:",
    "no-such-user-x",
    "root:no-such-group-x",
    "-u",
    "--help",
    "root:--help",
    "$(id -u)",
    "1.5:0",
    "root:root:root",
    "4294967295",
    "0:4294967295",
    "-1:0",
  ]) {
    test(`refuses ${JSON.stringify(value)}`, () => {
      expectRefusal(() => socketOwner(value), `--owner ${value} `, "USER or USER:GROUP");
    });
  }
});
