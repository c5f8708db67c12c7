/** `faultline conformance` as a command: what it prints, refuses, and leaves behind. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { scenarios } from "../../src/conformance/scenarios/all.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { plantedHandler } from "./kit.ts";

const needs = requires("userfaultfd");
const main = join(builtRoot, "src/cli/main.js");
const INTERRUPTED = 130;

function run(...args: readonly string[]): { status: number | null; out: string; error: string } {
  const child = spawnSync(process.execPath, [main, "conformance", ...args], { encoding: "utf8" });
  return { status: child.status, out: child.stdout, error: child.stderr };
}

describe("faultline conformance", needs, () => {
  test("--list names every scenario once, or those of a group", () => {
    const { out } = run("--list");
    const names = [...out.matchAll(/^ {2}([a-z][a-z0-9-]+)/gm)].map((match) => match[1]);
    assert.deepEqual(
      names,
      scenarios.map(({ name }) => name),
    );
    assert.match(run("--list", "hotplug").out, /^hotplug\n {2}hotplug-plug\n(?!.*sequential)/s);
  });

  test("names that do not exist, and commands without {socket}, are refused", () => {
    const unknown = run("no-such-scenario");
    assert.equal(unknown.status, ExitCode.usage);
    assert.match(unknown.error, /no scenario or group no-such-scenario.*groups are handshake, /);
    const incomplete = run("--handler", "./handler {memory}");
    assert.equal(incomplete.status, ExitCode.usage);
    assert.match(incomplete.error, /\{socket\}/);
  });

  test("a pass is one line; what is for other handlers is said not to be asked", () => {
    const command = plantedHandler().template;
    const { status, out } = run("--handler", command, "--jobs", "1", "last-page", "vm-after-vm");
    assert.equal(status, ExitCode.ok);
    const [first, second, why, , summary] = out.split("\n");
    assert.match(first!, /^pass {7}last-page +\d+ ms$/);
    assert.match(second!, /^not asked {2}vm-after-vm/);
    assert.match(why!, /--many-vms/);
    assert.equal(summary, "1 passed, 0 failed, 0 skipped, 1 not asked");
  });

  test("a failure says which page, what was expected, why, and what the handler wrote", () => {
    const command = `${plantedHandler("removes-one-more").template}; echo over`;
    const { status, out } = run("--handler", command, "remove-mixed");
    assert.equal(status, ExitCode.failed);
    assert.match(out, /^fail {7}remove-mixed/);
    assert.match(
      out,
      /Page 160 beside a REMOVE: expected the bytes of the memory file, found zeroes\./,
    );
    assert.match(out, /Why that is asked: .* The end of a REMOVE is exclusive\./);
    assert.match(out, /^0 passed, 1 failed, 0 skipped$/m);
  });

  test("a handler that does not start is no failed scenario, but the end of the run", () => {
    const { status, out, error } = run("--handler", "echo no; exit 3; {socket} {memory}");
    assert.equal(status, ExitCode.failed);
    assert.equal(out, "");
    assert.match(error, /ended with code 3 before it listened\. It wrote:\nno/);
  });
});

/** The processes that this one has started. */
function childrenOf(pid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => {
      try {
        const stat = readFileSync(`/proc/${candidate}/stat`, "utf8");
        return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === pid;
      } catch {
        return false; // It has ended.
      }
    });
}

test("Ctrl-C ends handler and VM, and removes what was written", needs, async () => {
  using folder = new TestFolder();
  const command = plantedHandler("drops-on-eagain").template;
  const args = ["--handler", command, "--timeout", "60", "remove-unread"];
  const child = spawn(process.execPath, [main, "conformance", ...args], {
    env: { ...process.env, TMPDIR: folder.path },
    stdio: "ignore",
  });
  const exited = once(child, "exit");
  const isUnderWay = (): boolean => {
    const [stage] = readdirSync(folder.path);
    const hasSocket = stage !== undefined && existsSync(folder.at(`${stage}/socket`));
    return hasSocket && childrenOf(child.pid!).length === 2;
  };
  await waitFor("handler and VM ran", isUnderWay, 20_000);
  const children = childrenOf(child.pid!);
  child.kill("SIGINT");
  const [code] = await within("the command ended", exited, 10_000);
  assert.equal(code, INTERRUPTED);
  const areGone = (): boolean => children.every((pid) => !existsSync(`/proc/${pid}`));
  await waitFor("handler and VM were gone", areGone, 5000);
  assert.deepEqual(readdirSync(folder.path), []);
});
