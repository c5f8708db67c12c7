/** Restore reports: what is found in crafted ones, and how it is told. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { restoreCauses } from "../../src/base/restore-causes.ts";
import { blameOf } from "../../src/report/blame.ts";
import { carve } from "../../src/report/carve.ts";
import { compareReports, lastGood } from "../../src/report/compare.ts";
import { diagnose } from "../../src/report/diagnose.ts";
import { type FindingId, findingIds } from "../../src/report/findings.ts";
import { reportPage } from "../../src/report/html.ts";
import type {
  CacheAccount,
  PrefaultAccount,
  ReportSummary,
  RestoreReport,
  StoreAccount,
} from "../../src/report/restore-report.ts";
import { describeReport, threeLines } from "../../src/report/text.ts";
import { craftReport } from "../support/restore-reports.ts";

const store = (p50: number, reads = 12): StoreAccount => ({
  location: "s3://images",
  reads,
  retries: 1,
  timeouts: 0,
  failures: 0,
  hedges: 0,
  bytesRead: 1e6,
  readMs: { p50, p99: p50 * 2 },
});

const cache = (change: Partial<CacheAccount> = {}): CacheAccount => ({
  ...{ sizeBytes: 2 ** 28, usedBytes: 2 ** 20, loads: 12, again: 0, evictions: 0, joined: 0 },
  ...{ fetchedBytes: 1e6, fetchMs: { p50: 3, p99: 5 } },
  ...change,
});

const prefault = (change: Partial<PrefaultAccount> = {}): PrefaultAccount => ({
  ...{ mode: "concurrent", state: "done", plannedPages: 1000, prefaultedPages: 1000 },
  ...{ usedPages: 900, wastedPages: 100, latePages: 10, savedUs: 9000 },
  ...{ demandedPages: 200, unplannedPages: 20 },
  ...change,
});

const wrongSet = prefault({ usedPages: 20, wastedPages: 980, unplannedPages: 190 });
const files = { kind: "files", memory: "/srv/vm.mem" } as const;

/** What is planted, what has to be found first, and what its first advice has to name. */
const planted: [what: string, report: RestoreReport, id: FindingId, advice: RegExp][] = [
  [
    "a store that takes 200 ms",
    craftReport({ guest: 50, handshake: 2, store: 900, decode: 9 }, { stores: [store(204)] }),
    "slow-store",
    /image pull/,
  ],
  [
    "the same, with a working set that is right",
    craftReport({ guest: 50, store: 300 }, { stores: [store(204)], prefault: prefault() }),
    "slow-store",
    /image pull/,
  ],
  [
    "a first restore from a store that is not slow",
    craftReport({ guest: 50, store: 80, handover: 5, install: 9 }, { stores: [store(30)] }),
    "no-working-set",
    /Restore it once more/,
  ],
  [
    "the same of a folder, whose reads only the cache knows",
    craftReport({ guest: 50, store: 80, install: 9 }, { cache: cache() }),
    "no-working-set",
    /Restore it once more/,
  ],
  [
    "a folder on a slow disk, with a working set that is right",
    craftReport(
      { guest: 50, store: 300 },
      { store: "dir:/srv/images", prefault: prefault(), cache: cache() },
    ),
    "slow-store",
    /faster disk/,
  ],
  [
    "the same, while another VM reads from a store behind a network",
    craftReport(
      { guest: 50, store: 300 },
      { store: "dir:/srv/images", prefault: prefault(), cache: cache(), stores: [store(170)] },
    ),
    "slow-store",
    /faster disk/,
  ],
  [
    "a store behind a network, of which a new pager knows nothing",
    craftReport({ guest: 50, store: 300 }, { prefault: prefault(), takeovers: 1 }),
    "slow-store",
    /image pull/,
  ],
  [
    "a working set of another guest",
    craftReport(
      { guest: 50, store: 300, install: 20 },
      { stores: [store(30)], prefault: wrongSet },
    ),
    "wrong-working-set",
    /web-1\.workingset/,
  ],
  [
    "one that was given up",
    craftReport(
      { store: 300 },
      { prefault: prefault({ state: "cancelled", unplannedPages: 195, prefaultedPages: 64 }) },
    ),
    "wrong-working-set",
    /learn anew/,
  ],
  [
    "a memory file on a cold disk",
    craftReport({ guest: 90, disk: 400, install: 10 }, files),
    "cold-disk",
    /cat \/srv\/vm\.mem/,
  ],
  [
    "a cache that is too small",
    craftReport({ guest: 9, again: 500, store: 90, room: 50 }, { cache: cache({ evictions: 9 }) }),
    "cache-too-small",
    /cacheMiB.*--cache-size/,
  ],
  [
    "an EAGAIN storm",
    craftReport({ guest: 90, deferred: 200, install: 10 }),
    "eagain-storm",
    /balloon/,
  ],
  ["busy CPUs", craftReport({ guest: 90, cpu: 300, install: 50 }), "busy-cpus", /fewer VMs/],
  ["many VMs on one worker", craftReport({ queue: 300, install: 50 }), "crowded", /--workers/],
  ["decoding", craftReport({ decode: 90 }, { kind: "files" }), "decoding", /prefetch/],
  ["a slow near disk", craftReport({ near: 90, install: 2 }, files), "near-disk", /--cache-dir/],
  ["slow memory", craftReport({ install: 90, lookup: 9 }), "slow-install", /installed ahead/],
  ["waiting for the set", craftReport({ ahead: 90, install: 9 }), "ahead", /concurrent/],
  ["a silent VMM", craftReport({ handshake: 400, install: 9 }), "handshake", /VMM/],
  ["no memory", craftReport({ memory: 400, install: 9 }), "no-memory", /memory\.max/],
  [
    "no huge pages",
    craftReport({ memory: 400 }, { pageSizeBytes: 2 ** 21 }),
    "no-memory",
    /vm\.nr_hugepages/,
  ],
  ["lost bytes", craftReport({ lost: 4000, store: 200 }), "lost-bytes", /image verify web-1/],
  [
    "a pager that died",
    craftReport({ takeover: 300, install: 9 }),
    "pager-replaced",
    /A pager ended/,
  ],
  ["a busy main thread", craftReport({ handover: 90 }, files), "main-thread", /CPU/],
  [
    "bytes under way",
    craftReport({ fetching: 9000 }, { stores: [store(800, 2)] }),
    "slow-store",
    /pull/,
  ],
  ["nothing", craftReport({ guest: 900, install: 8, handshake: 2 }), "not-memory", /elsewhere/],
  ["no fault at all", craftReport({}), "not-memory", /elsewhere/],
];

describe("diagnose", () => {
  for (const [what, report, id, advice] of planted) {
    test(`names ${id} first for ${what}`, () => {
      const [first] = diagnose(report);
      assert.equal(first?.id, id);
      assert.match(first!.advice[0]!, advice);
      assert.ok(first!.evidence.length > 0);
    });
  }

  test("has a case for every finding", () => {
    const seen = new Set(planted.map(([, , id]) => id));
    assert.deepEqual(
      findingIds.filter((id) => !seen.has(id)),
      [],
    );
  });

  test("gives each microsecond that was waited to one finding", () => {
    for (const [what, report] of planted) {
      const blamed = [...blameOf(report).values()].reduce((sum, us) => sum + us, 0);
      assert.ok(Math.abs(blamed - report.waitedUs) < 1e-6 * (1 + report.waitedUs), what);
    }
  });

  test("does not blame a set for a few pages, or for what it has planned", () => {
    const few = prefault({ demandedPages: 20, unplannedPages: 20, wastedPages: 1000 });
    const late = prefault({ demandedPages: 200, latePages: 190, unplannedPages: 10 });
    for (const each of [few, late]) {
      const report = craftReport({ store: 300 }, { stores: [store(204)], prefault: each });
      assert.equal(diagnose(report)[0]?.id, "slow-store");
    }
  });

  test("takes lack of room for a slow store as long as the cache has some", () => {
    const report = craftReport({ room: 300 }, { stores: [store(204)], cache: cache() });
    assert.equal(diagnose(report)[0]?.id, "slow-store");
    const full = craftReport({ room: 300 }, { cache: cache({ usedBytes: 2 ** 28 }) });
    assert.equal(diagnose(full)[0]?.id, "cache-too-small");
  });

  test("brings nothing closer that is in a folder of this host", () => {
    const times = { guest: 50, store: 300, again: 200 };
    const report = craftReport(times, { prefault: prefault(), cache: cache({ evictions: 9 }) });
    const advice = diagnose({ ...report, store: "dir:/srv" }).flatMap((each) => each.advice);
    assert.doesNotMatch(advice.join("\n"), /closer|cacheFolder/);
    const far = diagnose({ ...report, store: "s3://images" }).flatMap((each) => each.advice);
    assert.equal(far.join("\n").match(/closer|cacheFolder/g)?.length, 3);
  });

  test("tells who may not learn how to", () => {
    const learning = { mode: "concurrent", isRecorded: false };
    const report = craftReport({ store: 80 }, { stores: [store(30)], learning });
    assert.match(diagnose(report)[0]!.advice[0]!, /recordForS/);
    const off = craftReport({ store: 80 }, { learning: { mode: "off", isRecorded: true } });
    assert.match(diagnose(off)[0]!.advice[0]!, /Prefault is off/);
  });

  test("says nothing of prefault and learning after a takeover, as nobody knows", () => {
    const learning = { mode: "off", isRecorded: false };
    for (const times of [{ store: 80 }, { store: 80, takeover: 300 }, { install: 80 }]) {
      const report = craftReport(times, { stores: [store(30)], learning, takeovers: 1 });
      const found = diagnose(report);
      assert.ok(found.every(({ id }) => id !== "no-working-set"));
      const advice = found.flatMap((each) => each.advice).join("\n");
      assert.doesNotMatch(advice, /Prefault is off|recordForS/);
    }
  });
});

describe("carving out what fault workers cannot tell", () => {
  const zero = Object.fromEntries(restoreCauses.map((cause) => [cause, 0]));
  const causes = {
    ...zero,
    guest: 100,
    queue: 10,
    install: 30,
    store: 50,
  } as RestoreReport["causes"];
  const sum = (times: object): number =>
    Object.values(times).reduce((total: number, us: number) => total + us, 0);
  const carved = (workerUs: number | null, guestUs: number | null, deliveryUs = 0) =>
    carve(causes, { delays: { workerUs, guestUs }, deliveryUs });

  test("takes what had no CPU from the guest first", () => {
    const { cpu, guest, install } = carved(10, 30);
    assert.deepEqual([cpu, guest, install], [40, 60, 30]);
  });

  test("then from what fault workers do, in proportion, and from nothing else", () => {
    const some = carved(100, 20);
    assert.deepEqual([some.cpu, some.guest, some.queue, some.install], [120, 0, 5, 15]);
    const all = carved(1e9, 0);
    assert.deepEqual([all.cpu, all.store, all.install, all.queue], [140, 50, 0, 0]);
  });

  test("also from the time in which bytes wait for their fault worker", () => {
    const late = { ...causes, install: 0, handover: 30 };
    const { cpu, handover, queue, store } = carve(late, {
      delays: { workerUs: 120, guestUs: 0 },
      deliveryUs: 0,
    });
    assert.deepEqual([cpu, handover, queue, store], [120, 15, 5, 50]);
  });

  test("takes the kernel's part of faults from what is left of the guest", () => {
    const some = carved(10, 0, 40);
    assert.deepEqual([some.cpu, some.delivery, some.guest], [10, 40, 50]);
    const most = carved(10, 0, 1e6);
    assert.deepEqual([most.delivery, most.guest, most.install], [90, 0, 30]);
  });

  test("keeps the sum", () => {
    for (const [workerUs, guestUs, deliveryUs] of [
      [null, null, 0],
      [-5, -5, -5],
      [7, 1, 3],
      [133, 3, 50],
      [1e6, 1e6, 1e6],
    ] as const) {
      const total = sum(carved(workerUs, guestUs, deliveryUs));
      assert.ok(Math.abs(total - sum(causes)) < 1e-9, String([workerUs, guestUs, deliveryUs]));
    }
  });
});

describe("comparing", () => {
  const summary = (session: string, waitedUs: number, second: number): ReportSummary => ({
    ...{ session, memory: "web-1", layers: [], state: "restored", wallUs: 1e6, waitedUs },
    connectedAt: `2026-11-24T02:00:${String(second).padStart(2, "0")}.000Z`,
    finding: null,
  });

  test("names what got worse most", () => {
    const before = craftReport({ guest: 90, store: 20, install: 30 }, { session: "old" });
    const now = craftReport({ guest: 900, store: 200, install: 10, decode: 2 });
    const { main, waitedDifferenceUs, changes } = compareReports(now, before);
    assert.deepEqual([main?.cause, main?.differenceUs], ["store", 180_000]);
    assert.equal(waitedDifferenceUs, 162_000);
    assert.deepEqual(
      changes.map(({ cause }) => cause),
      ["store", "decode", "install"],
    );
    assert.equal(compareReports(before, before).main, null);
    assert.equal(compareReports(before, now).main?.cause, "store");
  });

  test("finds the last good restore: the newest before it that was as fast as most", () => {
    const now = summary("now", 900, 30);
    const kept = [summary("a", 100, 1), summary("b", 110, 2), summary("c", 800, 3), now];
    assert.equal(lastGood(now, kept)?.session, "b");
    assert.equal(lastGood(now, [...kept, summary("later", 1, 40)])?.session, "b");
    assert.equal(
      lastGood(now, [...kept, { ...summary("d", 1, 9), memory: "web-2" }])?.session,
      "b",
    );
    assert.equal(lastGood(now, [now]), null);
    const begun = { ...summary("begun", 1, 9), state: "restoring" } as const;
    assert.equal(lastGood(now, [...kept, begun])?.session, "b", "nobody knows how it ends");
    assert.equal(lastGood(now, [begun]), null);
    assert.equal(lastGood(now, [summary("only", 5000, 1)])?.session, "only");
  });
});

describe("the text", () => {
  const report = craftReport({ guest: 50, store: 900, decode: 90 }, { stores: [store(204)] });
  const verdict = { report, findings: diagnose(report), comparison: null };

  test("answers in three lines: how long, where it went, what to change", () => {
    const [first, second, third, ...rest] = describeReport(verdict).split("\n");
    assert.equal(
      first,
      "How long:       VM 3f2a waited 990 ms of the 1.04 s from its connection to the last fault " +
        "seen.",
    );
    assert.equal(
      second,
      "Where it went:  900 ms (91 %) slow-store: Reads from the store were slow: 204 ms each; " +
        "then 90 ms decoding.",
    );
    assert.match(third!, /^What to change: Bring the image closer: `faultline image pull`/);
    assert.equal(rest[0], "");
  });

  test("has a row for each cause that took time, and for the store", () => {
    const text = describeReport(verdict);
    assert.match(text, /read from a store +900 ms +87 % +█{24}\n/);
    assert.match(text, /s3:\/\/images +12 reads, p50 204 ms/);
    assert.doesNotMatch(text, /EAGAIN/);
  });

  test("of a VM that hardly waited sends elsewhere", () => {
    const quick = craftReport({ guest: 900, install: 8 });
    const lines = threeLines({ report: quick, findings: diagnose(quick), comparison: null });
    assert.match(lines[1]!, /Memory was not the reason/);
    assert.match(lines[2]!, /Look elsewhere/);
  });

  test("tells what became worse", () => {
    const before = craftReport({ guest: 50, store: 90, decode: 90 }, { session: "old" });
    const comparison = compareReports(report, before);
    assert.match(describeReport({ ...verdict, comparison }), /810 ms more .*read from a store/);
    const page = reportPage({ ...verdict, comparison });
    assert.match(page, /<h2>Compared with old of [^<]*<\/h2>\n<p>it waited 810 ms more/);
    assert.match(page, /<td>read from a store<\/td><td>90 ms<\/td><td>900 ms<\/td>/);
  });

  test("tells what became better", () => {
    const now = craftReport({ guest: 50, store: 90, install: 9 });
    const comparison = compareReports(now, craftReport({ guest: 50, store: 900, install: 1 }));
    const text = describeReport({ report: now, findings: diagnose(now), comparison });
    assert.match(text, /it waited 802 ms less \(901 ms then\); most of it by: read from a store/);
  });

  test("steers no terminal, whatever the file says", () => {
    const memory = "web\u001b[2J\u0007";
    const text = describeReport({ ...verdict, report: { ...report, memory } });
    assert.ok(text.includes("web?[2J?"));
  });
});

describe("the page", () => {
  const hostile = craftReport(
    { guest: 50, store: 900 },
    { memory: `<script src="http://x.example/a.js">&`, session: "a<b" },
  );
  const page = reportPage({ report: hostile, findings: diagnose(hostile), comparison: null });

  test("loads nothing, and runs nothing", () => {
    const tags = (page.match(/<[^>]*>/g) ?? []).join("\n");
    assert.doesNotMatch(tags, /<script|<link|<img|<iframe|\ssrc=|\shref=|\son\w+=/);
    assert.doesNotMatch(page, /url\(|@import/);
    assert.match(page, /default-src 'none'/);
    assert.match(page, /&lt;script src=&quot;/);
  });

  test("is well-formed: every element is closed, in order", () => {
    const open: string[] = [];
    for (const [, slash, name, rest] of page.matchAll(/<(\/?)([a-z]\w*)([^>]*)>/g)) {
      if (slash === "/") assert.equal(open.pop(), name);
      else if (!rest!.endsWith("/")) open.push(name!);
    }
    assert.deepEqual(open, []);
  });

  test("has a picture of causes, of demand and of memory, in both themes", () => {
    assert.equal(page.match(/<svg /g)?.length, 3);
    assert.match(page, /prefers-color-scheme:dark/);
    const silent = reportPage({
      ...{ report: craftReport({}, { demands: null, dearest: [] }), findings: [] },
      comparison: null,
    });
    assert.equal(silent.match(/<svg /g)?.length, 2);
  });
});
