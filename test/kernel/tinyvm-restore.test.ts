/** tinyvm restores snapshots through a handler: the guest must read what it had. */
import assert from "node:assert/strict";
import { closeSync, copyFileSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { MIB } from "../../src/base/units.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import {
  bootTinyvm,
  requiresUserModeFaults,
  runTinyvm,
  startPlainHandler,
  startTinyvm,
  type TinyvmEvent,
  type TinyvmResult,
  temporaryFolder,
} from "../support/tinyvm.ts";

const size = { memoryMib: 16, fill: 50, workingSet: 30 };
const RESTORED = ["handshake-sent", "first-instruction", "checksum", "after-write", "done"];

function assertIntact(result: TinyvmResult, snapshot: TinyvmEvent): void {
  assert.equal(result.errors, "");
  assert.equal(result.code, ExitCode.ok);
  const events = result.events.filter((each) => each.event !== "guest");
  assert.deepEqual(
    events.map((each) => each.event),
    RESTORED,
  );
  assert.equal(events[2]!.value, snapshot.checksum);
  assert.equal(events[3]!.value, snapshot.afterWrite);
  const times = [events[1]!.us, events[2]!.us, events[4]!.us].map(Number);
  assert.ok(times[0]! > 0 && times[0]! < times[1]! && times[1]! < times[2]!, times.join(" "));
}

interface Case {
  readonly saved: string;
  readonly restored: string;
  readonly flags?: readonly string[];
}

async function restoreCase({ saved, restored, flags = [] }: Case): Promise<void> {
  using folder = temporaryFolder();
  const snapshot = await bootTinyvm(folder.path, saved, size);
  const socket = join(folder.path, "socket");
  using _handler = await startPlainHandler(socket, String(snapshot.memoryFile));
  const args = ["--dir", folder.path, "--socket", socket, "--guest", restored, ...flags];
  assertIntact(await runTinyvm(["restore", ...args]), snapshot);
}

describe("tinyvm restore", () => {
  test("a KVM guest goes on with every byte it had", requires("kvm", "userfaultfd"), async () => {
    await restoreCase({ saved: "kvm", restored: "kvm" });
  });

  test("a process guest goes on with every byte it had", requiresUserModeFaults(), async () => {
    await restoreCase({ saved: "process", restored: "process" });
  });

  test(
    "a process guest goes on where a KVM guest was saved",
    requires("kvm", "userfaultfd"),
    async () => {
      await restoreCase({ saved: "kvm", restored: "process" });
    },
  );

  test("a guest in huge pages", requires("kvm", "userfaultfd", "hugepages"), async () => {
    await restoreCase({ saved: "kvm", restored: "kvm", flags: ["--huge-pages"] });
  });

  test(
    "without access to KVM, auto takes a process guest and says why",
    requires("unprivileged-user", "kvm"),
    async () => {
      using folder = temporaryFolder();
      const snapshot = await bootTinyvm(folder.path, "kvm", size);
      const socket = join(folder.path, "socket");
      using _handler = await startPlainHandler(socket, String(snapshot.memoryFile));
      const args = ["restore", "--dir", folder.path, "--socket", socket];
      const result = await runTinyvm(args, UNPRIVILEGED_UID);
      assertIntact(result, snapshot);
      assert.equal(result.events[0]!.kind, "process");
      assert.match(String(result.events[0]!.reason), /open \/dev\/kvm/);
      const refused = await runTinyvm([...args, "--guest", "kvm"], UNPRIVILEGED_UID);
      assert.equal(refused.code, ExitCode.noAccess);
      assert.match(refused.errors, /^tinyvm: no-kvm: /);
    },
  );
});

describe("tinyvm restore, when something is wrong", () => {
  test("a snapshot without a vCPU is not restored with KVM", requires("kvm"), async () => {
    using folder = temporaryFolder();
    await bootTinyvm(folder.path, "process", size);
    const args = ["restore", "--dir", folder.path, "--socket", join(folder.path, "socket")];
    const { code, errors } = await runTinyvm([...args, "--guest", "kvm"]);
    assert.equal(code, ExitCode.usage);
    assert.match(errors, /has no vCPU/);
  });

  test("one wrong byte is found out", requiresUserModeFaults(), async () => {
    using folder = temporaryFolder();
    const snapshot = await bootTinyvm(folder.path, "process", { ...size, workingSet: 100 });
    const wrong = join(folder.path, "wrong");
    copyFileSync(String(snapshot.memoryFile), wrong);
    const fd = openSync(wrong, "r+");
    writeSync(fd, Buffer.from([0x55]), 0, 1, 7 * MIB + 1234);
    closeSync(fd);
    const socket = join(folder.path, "socket");
    using _handler = await startPlainHandler(socket, wrong);
    const args = ["--dir", folder.path, "--socket", socket, "--guest", "process"];
    const { code, errors, events } = await runTinyvm(["restore", ...args]);
    assert.equal(code, ExitCode.failed);
    assert.match(errors, /^tinyvm: session-failed: /);
    assert.notEqual(events[2]!.value, snapshot.checksum);
    assert.equal(events[2]!.expected, snapshot.checksum);
  });

  test("without a handler the restore says what to start", requiresUserModeFaults(), async () => {
    using folder = temporaryFolder();
    await bootTinyvm(folder.path, "process", size);
    const args = ["restore", "--dir", folder.path, "--socket", join(folder.path, "socket")];
    const { code, errors } = await runTinyvm([...args, "--guest", "process"]);
    assert.equal(code, ExitCode.badSocket);
    assert.match(errors, /^tinyvm: socket-failed: No page-fault handler listens on /);
  });

  for (const guest of ["kvm", "process"]) {
    const needs = guest === "kvm" ? requires("kvm", "userfaultfd") : requiresUserModeFaults();
    test(`SIGTERM ends a ${guest} guest that waits for a page for ever`, needs, async () => {
      using folder = temporaryFolder();
      const snapshot = await bootTinyvm(folder.path, guest, size);
      const socket = join(folder.path, "socket");
      using _handler = await startPlainHandler(socket, String(snapshot.memoryFile), "--mute");
      const args = ["--dir", folder.path, "--socket", socket, "--guest", guest];
      const run = startTinyvm(["restore", ...args]);
      try {
        const isSent = () => run.events.some((each) => each.event === "handshake-sent");
        await waitFor("the handshake was sent", isSent, 10_000);
        await waitFor("the guest waits for a page", () => waitsForPage(run.child.pid!), 10_000);
        run.child.kill("SIGTERM");
        const { signal, events } = await within("tinyvm ended", run.result);
        assert.equal(signal, "SIGTERM");
        assert.equal(events.at(-1)?.event, "handshake-sent");
      } finally {
        run.child.kill("SIGKILL");
      }
    });
  }
});

/** As the kernel tells where its thread sleeps; it hides that from users without privilege. */
function waitsForPage(pid: number): boolean {
  return readFileSync(`/proc/${pid}/wchan`, "latin1") === "handle_userfault";
}
