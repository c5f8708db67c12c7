/** Assertions, error codes and what their messages are made of. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { AssertionError, assert as check, unreachable } from "../../src/base/assert.ts";
import {
  describeError,
  type ErrorCode,
  ExitCode,
  errorCodes,
  FaultlineError,
  SysError,
} from "../../src/base/errors.ts";

describe("assert", () => {
  test("says nothing about what holds", () => check(true, "never shown"));

  test("throws an AssertionError with the message about what does not", () => {
    assert.throws(() => check(false, "pages must be aligned"), {
      name: "AssertionError",
      message: "pages must be aligned",
    });
    assert.throws(() => check(false, ""), AssertionError);
  });

  test("is no FaultlineError: a broken invariant is nobody's mistake but ours", () => {
    assert.throws(
      () => check(false, "x"),
      (error: unknown) => !(error instanceof FaultlineError),
    );
  });

  test("unreachable names the value that got there", () => {
    assert.throws(() => unreachable("surprise" as never), {
      name: "AssertionError",
      message: "unreachable: surprise",
    });
  });
});

describe("error codes", () => {
  const codes = Object.keys(errorCodes) as ErrorCode[];

  test("each leads to an exit code that says failure", () => {
    const exits = new Set<number>(Object.values(ExitCode));
    for (const code of codes) {
      const { exitCode } = new FaultlineError(code, "x");
      assert.ok(exits.has(exitCode) && exitCode !== ExitCode.ok, code);
    }
  });

  test("each is kebab-case and explained in one sentence", () => {
    for (const code of codes) {
      assert.match(code, /^[a-z]+(-[a-z]+)*$/);
      assert.match(errorCodes[code][1], /^[A-Z].*\.$/, code);
    }
  });

  test("exit codes differ from each other, and from those of shells and signals", () => {
    const values = Object.values(ExitCode);
    assert.equal(new Set(values).size, values.length);
    for (const value of values) assert.ok(value >= 0 && value < 126, String(value));
  });
});

describe("FaultlineError", () => {
  test("carries code, exit code, message and cause", () => {
    const cause = new Error("No such file");
    const error = new FaultlineError("memory-missing", "It cannot be opened", { cause });
    assert.equal(error.name, "FaultlineError");
    assert.equal(error.code, "memory-missing");
    assert.equal(error.exitCode, ExitCode.badSnapshot);
    assert.equal(error.message, "It cannot be opened");
    assert.equal(error.cause, cause);
  });
});

describe("SysError", () => {
  test("names the call and the errno, and what the call was about", () => {
    const error = new SysError("mmap", 12, "ENOMEM", "4096 bytes");
    assert.equal(error.message, "mmap 4096 bytes: ENOMEM");
    assert.deepEqual(
      [error.name, error.code, error.syscall, error.errno, error.errnoName],
      ["SysError", "system", "mmap", 12, "ENOMEM"],
    );
    assert.ok(error instanceof FaultlineError);
  });

  test("does without a detail", () => {
    assert.equal(new SysError("read", 4, "EINTR").message, "read: EINTR");
  });
});

describe("describeError", () => {
  test("tells the causes too, outermost first", () => {
    const inner = new Error("ENOENT");
    const middle = new Error("open failed", { cause: inner });
    assert.equal(
      describeError(new FaultlineError("system", "It stopped", { cause: middle })),
      "It stopped: open failed: ENOENT",
    );
  });

  test("takes whatever was thrown", () => {
    assert.equal(describeError("plain text"), "plain text");
    assert.equal(describeError(undefined), "undefined");
    assert.equal(describeError(new Error("outer", { cause: 7 })), "outer: 7");
  });
});
