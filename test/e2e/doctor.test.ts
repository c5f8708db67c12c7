/** The doctor on this very machine: as this user, as nobody, and with too few descriptors. */
import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import type { Finding } from "../../src/cli/doctor-report.ts";
import type { KernelReport } from "../../src/uffd/probe.ts";
import { requiresUserfaultKernel, userfaultEnvironment } from "../support/userfault-kernel.ts";

interface DoctorJson {
  readonly mayServe: boolean;
  readonly findings: readonly Finding[];
  readonly report: KernelReport;
}

const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;
const needsRoot = isRoot ? false : "only root can become another user";

const doctorUrl = new URL("../../src/cli/doctor.js", import.meta.url).href;
const script = `
  const { doctorCommand } = await import(${JSON.stringify(doctorUrl)});
  await doctorCommand().parseAsync(process.argv.slice(1), { from: "user" });
`;
const nodeArguments = ["--input-type=module", "--eval", script, "--"];

function doctor(args: string[], uid?: number, env = process.env): SpawnSyncReturns<string> {
  const identity = uid === undefined ? {} : { uid, gid: uid };
  return spawnSync(process.execPath, [...nodeArguments, ...args], {
    encoding: "utf8",
    timeout: 20_000,
    env,
    ...identity,
  });
}

function doctorJson(uid?: number): DoctorJson {
  const { stdout, stderr } = doctor(["--json"], uid);
  assert.equal(stderr, "");
  return JSON.parse(stdout) as DoctorJson;
}

function find(json: DoctorJson, name: string): Finding {
  const finding = json.findings.find((candidate) => candidate.name === name);
  assert.ok(finding, `there is no finding ${name}`);
  return finding;
}

describe("faultline doctor", () => {
  test("as this user nothing that serving needs is missing", () => {
    const json = doctorJson();
    const missing = json.findings.filter((finding) => finding.status === "missing");
    assert.deepEqual(missing, []);
    assert.equal(json.mayServe, true);
    assert.equal(json.report.kernel.architecture, process.arch);
  });

  test("the report agrees with the machine", () => {
    const { report } = doctorJson();
    assert.equal(report.user.uid, process.getuid?.());
    assert.equal(report.kvm.device === "ENOENT", !existsSync("/dev/kvm"));
    assert.equal(report.userfaultfd.device === "ENOENT", !existsSync("/dev/userfaultfd"));
    if (report.kvm.device === "ok") assert.equal(report.kvm.apiVersion, 12);
    assert.ok(report.limits.openFilesSoft !== null && report.limits.openFilesSoft > 0);
    assert.ok(report.limits.availableBytes !== null && report.limits.availableBytes > 0);
    // All that this kernel has: bits of UFFDIO_API that are older than Linux 5.10 are always there.
    const old = report.userfaultfd.features.filter((feature) => feature.since.startsWith("4."));
    for (const feature of old) assert.notEqual(feature.isSupported, false, feature.name);
  });

  test("KVM Userfault is found where it is, and never missing", () => {
    const json = doctorJson();
    if (json.report.kvm.userfault.kind === "userfault") return;
    assert.equal(find(json, "kvm-userfault").status, "optional");
    assert.equal(json.mayServe, true);
  });

  test("KVM Userfault on a kernel that is played", requiresUserfaultKernel(), () => {
    const { stdout, status } = doctor([], undefined, userfaultEnvironment());
    assert.equal(status, ExitCode.ok);
    assert.match(stdout, /^ {2}ok +kvm-userfault .* its guest goes on meanwhile .*by rings/m);
  });

  test("root may create a userfaultfd", { skip: needsRoot }, () => {
    assert.equal(find(doctorJson(), "userfaultfd-create").status, "ok");
  });

  test("nobody may serve, but is told how to create a userfaultfd", { skip: needsRoot }, (t) => {
    const json = doctorJson(NOBODY);
    assert.equal(json.report.user.uid, NOBODY);
    assert.equal(json.mayServe, true);
    const { device, syscall } = json.report.userfaultfd;
    if (device === "ok" || syscall === "ok") return t.skip("everybody may create one here");
    const finding = find(json, "userfaultfd-create");
    assert.equal(finding.status, "optional");
    const fix =
      device === "EACCES"
        ? `sudo setfacl -m u:${json.report.user.name}:rw /dev/userfaultfd`
        : "sudo sysctl -w vm.unprivileged_userfaultfd=1";
    assert.equal(finding.fix, fix);
    const { stdout, status } = doctor([], NOBODY);
    assert.equal(status, ExitCode.ok);
    assert.ok(stdout.includes(`fix: ${fix}\n`), stdout);
  });

  test("too few descriptors: exit code 5, and the fix stands below the finding", () => {
    // Node itself starts with this few; it raises the soft limit, so the hard one counts.
    const command = 'ulimit -n 90; exec "$0" "$@"';
    const child = spawnSync("sh", ["-c", command, process.execPath, ...nodeArguments], {
      encoding: "utf8",
      timeout: 20_000,
    });
    assert.equal(child.status, ExitCode.noAccess, child.stderr);
    const lines = child.stdout.split("\n");
    const index = lines.findIndex((line) => /^ {2}missing {3}open-files /.test(line));
    assert.ok(index >= 0, child.stdout);
    // Which of the three commands depends on the rights of whoever runs the tests.
    assert.match(lines[index + 1] ?? "", /^ +fix: (ulimit|sudo prlimit|docker run) .*65536/);
    assert.match(child.stdout, /^Not ready to serve VMs: 1 missing, \d+ optional\.$/m);
  });

  test("a pipe gets aligned columns without colours", () => {
    const { stdout } = doctor([]);
    assert.equal(stdout.includes("\u001b"), false);
    const rows = stdout.split("\n").filter((line) => /^ {2}(ok|missing|optional) /.test(line));
    const columns = rows.map((row) => row.match(/^ {2}\S+ +\S+ +/)?.[0].length);
    assert.equal(new Set(columns).size, 1, stdout);
  });

  test("help shows an example and the exit codes", () => {
    const { stdout, status } = doctor(["--help"]);
    assert.equal(status, ExitCode.ok);
    assert.match(stdout, /faultline doctor --json/);
    assert.match(stdout, /Exit codes: 0 .*5/);
  });
});
