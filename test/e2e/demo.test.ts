/** `faultline demo` proves what it shows: the guest's checksum after a lazy restore is the same. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, test } from "node:test";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { atExit } from "../support/end-cleanly.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";

const TIMEOUT_MS = 60_000;
const program = [join(builtRoot, "src", "cli", "main.js"), "demo", "--memory-mib", "16"];

function demo(...flags: readonly string[]) {
  using folder = new TestFolder();
  const environment = { ...process.env, TMPDIR: folder.path };
  const options = { encoding: "utf8", timeout: TIMEOUT_MS, env: environment } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, [...program, ...flags], options);
  assert.equal(status, 0, stderr);
  assert.deepEqual(readdirSync(folder.path), [], "it left something behind");
  return stdout;
}

describe("faultline demo", requires("userfaultfd"), () => {
  for (const flags of [
    [],
    ["--image"],
    ["--guest", "process"],
    ["--guest", "process", "--image"],
  ]) {
    test(`${flags.join(" ") || "without options"}: every byte is right`, () => {
      const result = JSON.parse(demo("--json", ...flags)) as Record<string, unknown>;
      assert.equal(result.isProven, true);
      assert.ok(Number(result.faults) > 0);
      assert.ok(Number(result.neverLoadedBytes) > 0);
    });
  }

  test("--image says what became of the memory file", () => {
    const lines = demo("--image", "--guest", "process");
    assert.match(lines, /Packed as an image in \d+ ms, and its memory file removed/);
    assert.match(lines, /the same: every byte it read was right/);
  });

  test("--dashboard waits for a browser, shows it the VM, and ends at Ctrl-C", async () => {
    using folder = new TestFolder();
    const flags = ["--dashboard", "--slowness", "2", "--guest", "process"];
    const child = spawn(process.execPath, [...program, ...flags], {
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, TMPDIR: folder.path, DISPLAY: undefined, WAYLAND_DISPLAY: undefined },
    });
    const forget = atExit(() => child.kill("SIGKILL"));
    try {
      const lines: string[] = [];
      createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
      const find = (pattern: RegExp): RegExpExecArray | null =>
        pattern.exec(lines.join("\n")) ?? null;
      const [, origin, token] = await waitFor(
        "the demo told its address",
        () => find(/(http:\S+)\/#([\w-]+)\/first/),
        TIMEOUT_MS,
      );
      assert.equal(find(/checksum after/), null, "nobody looks yet");
      const looking = new AbortController();
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${origin}/v1/watch`, { headers, signal: looking.signal });
      assert.equal(response.status, 200);
      await waitFor("the guest was done", () => find(/checksum after.*\bthe same/), TIMEOUT_MS);
      await waitFor("the demo told how to end it", () => find(/Ctrl-C ends the demo/), TIMEOUT_MS);
      looking.abort();
      child.kill("SIGINT");
      const [code] = await within("the demo ended", once(child, "exit"), TIMEOUT_MS);
      assert.equal(code, 0);
      assert.deepEqual(readdirSync(folder.path), [], "it left something behind");
    } finally {
      forget();
      child.kill("SIGKILL");
    }
  });
});
