/** Reports on disk: whole, bounded, found again, and no trouble for anybody. */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { MIB } from "../../src/base/units.ts";
import { createLogger, type Logger } from "../../src/daemon/log.ts";
import { ReportFiles } from "../../src/daemon/reports/report-files.ts";
import { parseReport } from "../../src/daemon/reports/report-schema.ts";
import type { RestoreReport } from "../../src/report/restore-report.ts";
import { TestFolder } from "../support/fixtures.ts";
import { craftReport } from "../support/restore-reports.ts";

const folder = new TestFolder();
after(() => folder[Symbol.dispose]());
const silent = createLogger("silent", "json");
const GENEROUS = { perMemory: 16, memories: 64, bytes: 1e9 };
let nextFolder = 0;
const freshFolder = (): string => folder.at(`reports-${nextFolder++}`);

/** The `second`th of its memory. */
function reportOf(session: string, second: number, memory = "web-1"): RestoreReport {
  const connectedAt = `2026-11-24T02:00:${String(second).padStart(2, "0")}.000Z`;
  return craftReport({ guest: 50, store: 900 }, { session, connectedAt, memory });
}

/** Of its file. */
function nameOf(session: string, second: number): string {
  return `${session}.20261124T0200${String(second).padStart(2, "0")}000Z.json`;
}

function filesIn(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)
    .sort();
}

describe("reports on disk", () => {
  test("are found by session and by memory, also by the next process", async () => {
    const path = freshFolder();
    const files = new ReportFiles(path, silent);
    await files.write(reportOf("one", 1));
    await files.write(reportOf("two", 2));
    await files.write(reportOf("other", 3, "web-2"));
    const next = new ReportFiles(path, silent);
    for (const each of [files, next]) {
      assert.deepEqual(await each.find("one"), reportOf("one", 1));
      assert.equal(await each.find("none"), null);
      const listed = await each.list("web-1");
      assert.deepEqual(
        listed.map(({ session }) => session),
        ["two", "one"],
      );
      assert.equal(listed[0]?.finding, "no-working-set");
      assert.equal((await each.list()).length, 3);
    }
  });

  test("of one name are of different restores: the newest is found first", async () => {
    const path = freshFolder();
    const files = new ReportFiles(path, silent);
    await files.write(reportOf("one", 1));
    const written = await files.write(reportOf("one", 2));
    assert.deepEqual(filesIn(path), [nameOf("one", 1), nameOf("one", 2)]);
    assert.deepEqual(JSON.parse(readFileSync(written!, "utf8")), reportOf("one", 2));
    for (const each of [files, new ReportFiles(path, silent)]) {
      assert.deepEqual(await each.find("one"), reportOf("one", 2));
      for (const second of [1, 2]) {
        const report = reportOf("one", second);
        assert.deepEqual(await each.find("one", report.connectedAt), report);
      }
      assert.equal(await each.find("one", reportOf("one", 3).connectedAt), null);
      assert.equal((await each.list()).length, 2);
    }
  });

  test("touch nothing that is not theirs, in a folder that people have named", async () => {
    const path = freshFolder();
    const hash = "0123456789abcdef";
    const theirs = [
      ...[".git/config", ".git/objects/4f/1c", "src/index.ts", "src/deep/er/x.json", ".env"],
      ...["package.json", "one.20261124T020001000Z.json", `${hash}/one.json`, `${hash}/.env`],
      ...[`${hash}/.one.1`, `${hash}/sub/one.20261124T020001000Z.json`, "2026/.left.1"],
      ...["ABCDEF0123456789/one.20261124T020001000Z.json"],
    ];
    for (const name of theirs) {
      mkdirSync(join(path, name, ".."), { recursive: true });
      writeFileSync(join(path, name), name);
      utimesSync(join(path, name), 1, 1);
    }
    mkdirSync(join(path, "empty"));
    // A file where a memory's folder could be, and a link that leads away.
    writeFileSync(join(path, "fedcba9876543210"), "");
    symlinkSync("src", join(path, "0000000000000000"));
    const bounds = { perMemory: 2, memories: 2, bytes: 20_000 };
    for (let each = 0; each < 12; each++) {
      const files = new ReportFiles(path, silent, bounds);
      const written = await files.write(reportOf(`vm-${each}`, each, `${each % 5}`));
      assert.notEqual(written, null, "reports go on");
    }
    for (const name of theirs) assert.equal(readFileSync(join(path, name), "utf8"), name);
    assert.ok(existsSync(join(path, "empty")));
    assert.ok(existsSync(join(path, "fedcba9876543210")));
    const ours = filesIn(path).filter((name) => name.startsWith("vm-"));
    assert.deepEqual(ours, [nameOf("vm-10", 10), nameOf("vm-11", 11)]);
  });

  test("go on beside a memory's folder with somebody's files in it", async () => {
    const path = freshFolder();
    const files = new ReportFiles(path, silent, { ...GENEROUS, memories: 1 });
    const written = await files.write(reportOf("vm-0", 0, "a"));
    const foreign = join(written!, "..", "notes.txt");
    writeFileSync(foreign, "mine");
    for (let each = 1; each < 4; each++) await files.write(reportOf(`vm-${each}`, each, "b"));
    assert.equal(readFileSync(foreign, "utf8"), "mine");
    assert.equal(existsSync(written!), false);
  });

  test("of a memory are bounded, and the oldest goes", async () => {
    const path = freshFolder();
    const files = new ReportFiles(path, silent, { ...GENEROUS, perMemory: 3 });
    for (let each = 0; each < 5; each++) await files.write(reportOf(`vm-${each}`, each));
    await files.write(reportOf("other", 9, "web-2"));
    const kept = [nameOf("other", 9), ...[2, 3, 4].map((each) => nameOf(`vm-${each}`, each))];
    assert.deepEqual(filesIn(path), kept);
  });

  test("are of so many memories only", async () => {
    const path = freshFolder();
    const files = new ReportFiles(path, silent, { ...GENEROUS, memories: 2 });
    for (let each = 0; each < 4; each++) await files.write(reportOf(`vm-${each}`, each, `${each}`));
    assert.deepEqual(filesIn(path), [nameOf("vm-2", 2), nameOf("vm-3", 3)]);
    assert.equal(readdirSync(path).length, 2, "folders without reports go too");
  });

  test("have so many bytes together, whatever an earlier process has left", async () => {
    const path = freshFolder();
    const sizeBytes = JSON.stringify(reportOf("vm-0", 0)).length + 1;
    const bytes = Math.floor(sizeBytes * 2.5);
    for (let each = 0; each < 5; each++) {
      const files = new ReportFiles(path, silent, { ...GENEROUS, bytes });
      await files.write(reportOf(`vm-${each}`, each));
    }
    assert.deepEqual(filesIn(path), [nameOf("vm-3", 3), nameOf("vm-4", 4)]);
  });

  test("that are none are passed over", async () => {
    const path = freshFolder();
    const files = new ReportFiles(path, silent);
    const written = await files.write(reportOf("one", 1));
    writeFileSync(join(path, "stray"), "");
    const place = join(written!, "..");
    writeFileSync(join(place, nameOf("cut", 2)), '{"version": 1, "sess');
    const left = join(place, `.${nameOf("left", 3)}.4711`);
    writeFileSync(left, "");
    utimesSync(left, 1, 1);
    const next = new ReportFiles(path, silent);
    assert.deepEqual(
      (await next.list()).map(({ session }) => session),
      ["one"],
    );
    const isCorrupt = (error: unknown): boolean =>
      error instanceof FaultlineError && error.code === "report-corrupt";
    await assert.rejects(next.find("cut"), isCorrupt, "it is there, and says so");
    assert.equal(await next.find("cut", reportOf("cut", 3).connectedAt), null);
    truncateSync(join(place, nameOf("cut", 2)), 5 * MIB);
    await assert.rejects(next.find("cut"), isCorrupt);
    rmSync(join(place, nameOf("cut", 2)));
    assert.equal(await next.find("cut"), null);
    assert.equal(existsSync(left), false, "what was never finished goes");
  });

  test("that cannot be written are told once, until one can be", async () => {
    const path = freshFolder();
    const told: string[] = [];
    const log = { warn: (_: object, message: string) => told.push(message) } as unknown as Logger;
    // A file where the folder has to be: no space, no rights look the same.
    writeFileSync(path, "");
    const files = new ReportFiles(path, log);
    for (const session of ["a", "b"]) assert.equal(await files.write(reportOf(session, 1)), null);
    assert.deepEqual(told, ["Restore reports cannot be kept"]);
    assert.deepEqual(await files.list(), []);
  });
});

describe("a report's file", () => {
  const refuses = (json: string, message: RegExp): void =>
    assert.throws(
      () => parseReport(json, "x.json"),
      (error) =>
        error instanceof FaultlineError &&
        error.code === "report-corrupt" &&
        message.test(error.message),
    );

  test("is read as it was written", () => {
    const report = reportOf("one", 1);
    assert.deepEqual(parseReport(JSON.stringify(report), "x.json"), report);
  });

  test("of who knew fewer causes has none of them", () => {
    const { cpu: _, ...causes } = reportOf("one", 1).causes;
    const read = parseReport(JSON.stringify({ ...reportOf("one", 1), causes }), "x.json");
    assert.equal(read.causes.cpu, 0);
  });

  test("that is cut off, of another version, or wrong in a field is refused", () => {
    const report = reportOf("one", 1);
    refuses(JSON.stringify(report).slice(0, 99), /x\.json is no JSON/);
    refuses("[]", /has no version/);
    refuses("null", /has no version/);
    refuses(JSON.stringify({ ...report, version: 2 }), /has version 2/);
    refuses(JSON.stringify({ ...report, causes: { store: -1 } }), /causes\.store/);
    refuses(JSON.stringify({ ...report, causes: 7 }), /causes/);
    refuses(JSON.stringify({ ...report, dearest: [{}] }), /dearest\.0\.page/);
  });
});
