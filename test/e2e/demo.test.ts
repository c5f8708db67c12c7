/** `faultline demo` proves what it shows: the guest's checksum after a lazy restore is the same. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
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
    using demo = new WatchedDemo("--slowness", "2", "--guest", "process");
    const address = await demo.told(ADDRESS);
    assert.equal(demo.find(/checksum after/), null, "nobody looks yet");
    using _viewer = await demo.look(address);
    await demo.told(/checksum after.*\bthe same/);
    await demo.told(/Ctrl-C ends the demo/);
    demo.child.kill("SIGINT");
    assert.equal(await demo.ended(), 0);
    assert.deepEqual(demo.left, [], "it left something behind");
  });

  test("--dashboard --json says beside the numbers where to look", async () => {
    using demo = new WatchedDemo("--slowness", "1", "--guest", "process", "--json");
    using _viewer = await demo.look(await demo.told(ADDRESS, "stderr"));
    await demo.told(/Ctrl-C ends the demo/, "stderr");
    demo.child.kill("SIGINT");
    assert.equal(await demo.ended(), 0);
    const numbers = JSON.parse(demo.lines.stdout.join("\n")) as Record<string, unknown>;
    assert.equal(numbers.isProven, true);
  });

  for (const signal of ["SIGTERM", "SIGHUP"] as const) {
    test(`${signal} leaves no VM that stands still, and no folder`, async () => {
      using demo = new WatchedDemo("--slowness", "1000", "--guest", "process");
      using _viewer = await demo.look(await demo.told(ADDRESS));
      const vm = await waitFor("the VM stands still", () => stoppedChild(demo.pid), TIMEOUT_MS);
      demo.child.kill(signal);
      assert.equal(await demo.ended(), 128 + constants.signals[signal]);
      await waitFor("the VM is gone", () => !isAlive(vm), TIMEOUT_MS);
      assert.deepEqual(demo.left, [], "it left something behind");
    });
  }
});

const ADDRESS = /(http:\S+)\/#([\w-]+)\/first/;

/** A demo with a dashboard, in a folder of its own; nothing of it outlives its test. */
class WatchedDemo implements Disposable {
  readonly child: ChildProcess;
  readonly lines = { stdout: [] as string[], stderr: [] as string[] };
  readonly #folder = new TestFolder();
  readonly #forget: () => void;
  readonly #exit: Promise<unknown[]>;

  constructor(...flags: readonly string[]) {
    const { path: TMPDIR } = this.#folder;
    this.child = spawn(process.execPath, [...program, "--dashboard", ...flags], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, TMPDIR, DISPLAY: undefined, WAYLAND_DISPLAY: undefined },
    });
    this.#forget = atExit(() => this.child.kill("SIGKILL"));
    this.#exit = once(this.child, "close");
    for (const name of ["stdout", "stderr"] as const) {
      createInterface({ input: this.child[name]! }).on("line", (line) => {
        this.lines[name].push(line);
      });
    }
  }

  get pid(): number {
    return this.child.pid!;
  }

  /** What is in its folder for temporary files. */
  get left(): string[] {
    return readdirSync(this.#folder.path);
  }

  find(pattern: RegExp, on: "stdout" | "stderr" = "stdout"): RegExpExecArray | null {
    return pattern.exec(this.lines[on].join("\n"));
  }

  async told(pattern: RegExp, on: "stdout" | "stderr" = "stdout"): Promise<RegExpExecArray> {
    return await waitFor(`it said ${pattern}`, () => this.find(pattern, on), TIMEOUT_MS);
  }

  /** Looks as a browser does, until it is disposed of. */
  async look([, origin, token]: RegExpExecArray): Promise<Disposable> {
    const looking = new AbortController();
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(`${origin}/v1/watch`, { headers, signal: looking.signal });
    assert.equal(response.status, 200);
    return { [Symbol.dispose]: () => looking.abort() };
  }

  /** The exit code. */
  async ended(): Promise<unknown> {
    const [code] = await within("the demo ended", this.#exit, TIMEOUT_MS);
    return code;
  }

  [Symbol.dispose](): void {
    this.#forget();
    this.child.kill("SIGKILL");
    this.#folder[Symbol.dispose]();
  }
}

/** The child of a process that is stopped by a signal; null: there is none. */
function stoppedChild(pid: number): number | null {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
  const found = children.split(" ").find((child) => child !== "" && stateOf(child) === "T");
  return found === undefined ? null : Number(found);
}

function isAlive(pid: number): boolean {
  return !["", "Z"].includes(stateOf(String(pid)));
}

/** The letter of proc(5); empty: there is no such process. */
function stateOf(pid: string): string {
  try {
    return /^State:\t(\w)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
  } catch {
    return "";
  }
}
