/** `faultline ps`, `show`, `complete`, `detach`, `kill`, `daemon …`, as users type them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { defaultControlSocket } from "../../src/cli/control-options.ts";
import { type CommandEnd, CommandProcess, runCommand } from "../support/command-process.ts";
import { ControlStage } from "../support/control-stage.ts";
import { TableDashboard } from "../support/table-dashboard.ts";
import { TableHost } from "../support/table-host.ts";

interface Stage extends AsyncDisposable {
  readonly host: TableHost;
  readonly dashboard: TableDashboard;
  run(...args: readonly string[]): Promise<CommandEnd>;
  /** Runs it, and gives what it prints with --json. */
  json(...args: readonly string[]): Promise<Record<string, unknown>>;
  readonly environment: NodeJS.ProcessEnv;
}

async function startStage(): Promise<Stage> {
  const host = new TableHost();
  const dashboard = new TableDashboard();
  const stage = await ControlStage.start({ service: host, dashboard });
  const environment = { FAULTLINE_CONTROL: stage.socketPath };
  const run: Stage["run"] = async (...args) => await runCommand(args, environment);
  return {
    host,
    dashboard,
    run,
    environment,
    json: async (...args) => {
      const { code, stdout, stderr } = await run(...args, "--json");
      assert.equal(code, 0, stderr);
      return JSON.parse(stdout) as Record<string, unknown>;
    },
    [Symbol.asyncDispose]: async () => await stage[Symbol.asyncDispose](),
  };
}

describe("dashboard", () => {
  test("prints where it is to be opened, or how to have it", async () => {
    await using stage = await startStage();
    const { code, stdout, stderr } = await stage.run("dashboard");
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /on its control socket only.*--dashboard 127\.0\.0\.1:7433/s);
    const nowhere = await stage.run("dashboard", "--json");
    assert.equal(nowhere.code, 1);
    assert.deepEqual(JSON.parse(nowhere.stdout), { address: null, token: null, url: null });
    stage.dashboard.at = { address: null, token: "secret" };
    const later = await stage.run("dashboard");
    assert.deepEqual([later.code, later.stdout], [1, ""]);
    assert.match(later.stderr, /cannot have the dashboard's address for now/);
    stage.dashboard.at = { address: "127.0.0.1:7433", token: "secret" };
    assert.equal((await stage.run("dashboard")).stdout, "http://127.0.0.1:7433/#secret\n");
    const { url } = await stage.json("dashboard");
    assert.equal(url, "http://127.0.0.1:7433/#secret");
  });
});

describe("ps and show", () => {
  test("list what there is, what has ended, and what has a label", async () => {
    await using stage = await startStage();
    assert.equal((await stage.run("ps")).stdout, "There are no sessions.\n");
    await stage.host.createSession({ id: "web-1", memory: "/srv/a.mem", labels: { tenant: "7" } });
    await stage.host.createSession({ id: "web-2", memory: "/srv/b.mem" });
    await stage.host.createSession({ id: "old", memory: "/srv/c.mem" });
    stage.host.attach("web-1", 4321, 128);
    stage.host.end("old", "expired");
    const { stdout } = await stage.run("ps");
    const rows = stdout.trimEnd().split("\n");
    assert.match(rows[0]!, /^ID +STATE +PID +MEMORY +SIZE +THERE +AGE +LABELS$/);
    assert.match(rows[1]!, /^web-1 +attached +4321 +\/srv\/a\.mem +1 MiB +50 % +\d+ s +tenant=7$/);
    assert.match(rows[2]!, /^web-2 +waiting +- +\/srv\/b\.mem +1 MiB +- +\d+ s +-$/);
    assert.equal(rows.length, 3);
    assert.match((await stage.run("ps", "--all")).stdout, /^old +ended \(expired\)/m);
    const labelled = await stage.json("ps", "--label", "tenant=7");
    assert.equal((labelled.sessions as unknown[]).length, 1);
    assert.deepEqual(await stage.json("ps", "--label", "tenant=8"), { sessions: [] });
  });

  test("a VM is named by its id, the beginning of it, or its process", async () => {
    await using stage = await startStage();
    await stage.host.createSession({ id: "web-1", memory: "/srv/a.mem" });
    await stage.host.createSession({ id: "web-12", memory: "/srv/a.mem" });
    await stage.host.createSession({ id: "4321", memory: "/srv/a.mem" });
    await stage.host.createSession({ id: "gone-1", memory: "/srv/a.mem" });
    stage.host.attach("web-12", 4321);
    stage.host.attach("4321", 99);
    stage.host.end("gone-1", "killed");
    const meant = async (text: string): Promise<unknown> => (await stage.json("show", text)).id;
    assert.equal(await meant("web-1"), "web-1", "an id comes first");
    assert.equal(await meant("web-12"), "web-12");
    assert.equal(await meant("4321"), "4321", "an id comes before a process");
    assert.equal(await meant("99"), "4321");
    assert.equal(await meant("43"), "4321");
    assert.equal(await meant("gone"), "gone-1", "also of what has ended");
    const several = await stage.run("show", "web");
    assert.deepEqual(
      [several.code, several.stderr],
      [1, 'faultline: 2 sessions begin with "web": web-1, web-12. Give more of the id.\n'],
    );
    const none = await stage.run("show", "nobody");
    assert.equal(none.code, 1);
    assert.match(none.stderr, /No session is called "nobody".*faultline ps --all/);
  });

  test("show tells of the VM", async () => {
    await using stage = await startStage();
    await stage.host.createSession({ id: "web-1", memory: "/srv/a.mem", layers: ["/srv/d.mem"] });
    stage.host.attach("web-1", 4321, 100);
    const { stdout } = await stage.run("show", "web-1");
    for (const line of [
      /^memory +\/srv\/a\.mem, 1 MiB$/m,
      /^layer +\/srv\/d\.mem$/m,
      /^VM +process 4321, attached /m,
      /^installed +156 of 256 pages, 624 KiB$/m,
      /^latency +p50 12 µs, p99 80 µs$/m,
      /^counters +faults 156$/m,
    ]) {
      assert.match(stdout, line);
    }
  });
});

describe("complete, detach, kill", () => {
  test("complete begins, and waits if told to", async () => {
    await using stage = await startStage();
    await stage.host.createSession({ id: "a", memory: "/srv/a.mem" });
    const early = await stage.run("complete", "a");
    assert.deepEqual([early.code, /is waiting/.test(early.stderr)], [1, true]);
    stage.host.attach("a", 1);
    assert.equal((await stage.run("complete", "a")).stdout, "a: installs all of its memory\n");
    const late = await stage.run("complete", "a", "--wait", "--timeout", "1");
    assert.equal(late.code, 1);
    assert.match(late.stderr, /a still lacks 256 pages after 1 s/);
    await using waiting = new CommandProcess(["complete", "a", "--wait"], stage.environment);
    stage.host.end("a", "complete");
    const { code, stdout } = await waiting.ended();
    // It may have come too late to begin.
    assert.ok(code === 0 ? stdout === "a: complete\n" : /is ended/.test(waiting.stderr));
  });

  test("complete --wait fails if the VM ends otherwise", async () => {
    await using stage = await startStage();
    await stage.host.createSession({ id: "a", memory: "/srv/a.mem" });
    stage.host.attach("a", 1);
    const complete = stage.host.completeSession.bind(stage.host);
    stage.host.completeSession = (id) => {
      const view = complete(id);
      stage.host.end(id, "exited");
      return view;
    };
    const { code, stdout } = await stage.run("complete", "a", "--wait");
    assert.deepEqual([code, stdout], [1, "a: exited\n"]);
  });

  test("detach wants to be meant, kill does not", async () => {
    await using stage = await startStage();
    await stage.host.createSession({ id: "a", memory: "/srv/a.mem" });
    await stage.host.createSession({ id: "b", memory: "/srv/a.mem" });
    stage.host.attach("a", 1);
    const refused = await stage.run("detach", "a");
    assert.deepEqual([refused.code, refused.stderr], [1, "faultline: a lacks 256 pages.\n"]);
    assert.equal((await stage.run("detach", "a", "--force")).stdout, "a: let go\n");
    assert.equal((await stage.run("kill", "b")).stdout, "b: cancelled\n");
    assert.deepEqual(
      stage.host.sessions(true).map(({ end }) => end?.reason),
      ["detached", "cancelled"],
    );
  });
});

describe("daemon", () => {
  test("status, drain, undrain, reload", async () => {
    await using stage = await startStage();
    await stage.host.createSession({ id: "a", memory: "/srv/a.mem" });
    assert.match((await stage.run("daemon", "status")).stdout, /^takes more +yes$/m);
    const drained = await stage.run("daemon", "drain");
    assert.equal(drained.stdout, "the daemon takes no more sessions; 1 wait, 0 are attached\n");
    assert.match((await stage.run("daemon", "status")).stdout, /^takes more +no: it drains$/m);
    assert.equal((await stage.json("daemon", "undrain")).isDraining, false);
    assert.equal((await stage.json("daemon", "reload")).takeovers, 1);
    stage.host.aliveWorkers = 1;
    const sick = await stage.run("daemon", "status");
    assert.deepEqual([sick.code, /1 of 2 alive/.test(sick.stdout)], [1, true]);
    assert.match(sick.stderr, /Only 1 of 2 fault workers are alive/);
  });
});

describe("the control socket", () => {
  test("is named by the option, the environment, or is that of the user's daemon", async () => {
    await using stage = await startStage();
    const elsewhere = ["--control", "/nowhere/control.sock"];
    const { code, stderr } = await stage.run("ps", ...elsewhere);
    assert.equal(code, 1);
    assert.match(stderr, /Nobody listens on \/nowhere\/control\.sock\. Start `faultline daemon`/);
    assert.equal(defaultControlSocket({ FAULTLINE_CONTROL: "/x" }), "/x");
    const own = process.getuid?.() === 0 ? "/run" : "/run/user/7";
    const found = defaultControlSocket({ XDG_RUNTIME_DIR: "/run/user/7" });
    assert.equal(found, `${own}/faultline/control.sock`);
  });

  test("every command has help with an example", async () => {
    for (const name of ["restore", "ps", "show", "complete", "detach", "kill"]) {
      const { code, stdout } = await runCommand([name, "--help"]);
      assert.equal(code, 0);
      assert.match(stdout, new RegExp(`Examples?:[^]*\\n  faultline ${name} `));
    }
  });
});
