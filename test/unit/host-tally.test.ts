/** What a daemon counts over its pagers: kept, found again, and never less than before. */
import assert from "node:assert/strict";
import { ftruncateSync } from "node:fs";
import { describe, test } from "node:test";
import { type CauseTimes, restoreCauses } from "../../src/base/restore-causes.ts";
import { type HostNumbers, statisticsOf, totalsOf } from "../../src/daemon/host-numbers.ts";
import { HostTally, TALLY_ENTRY } from "../../src/daemon/host-tally.ts";
import type { RestoreAccount } from "../../src/engine/restore-account.ts";
import { SessionStats } from "../../src/engine/session-stats.ts";
import { duplicateFd, OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { hostNumbers } from "../support/host-numbers.ts";

function statsOf(faults: number): SessionStats {
  const stats = new SessionStats();
  for (let fault = 0; fault < faults; fault++) {
    stats.addFault();
    stats.addInstalled(2);
    stats.addLatency(10);
  }
  return stats;
}

/** Microseconds. */
function waitedFor(times: Partial<CauseTimes>): Pick<RestoreAccount, "causes"> {
  const none = Object.fromEntries(restoreCauses.map((cause) => [cause, 0])) as CauseTimes;
  return { causes: () => ({ ...none, ...times }) };
}

/** Keeps the last of what it is given, as the supervisor does. */
class OneEntry {
  kept: OwnedFd | null = null;
  keep(name: string, [fd]: readonly number[]): void {
    assert.equal(name, TALLY_ENTRY);
    this.kept = duplicateFd(fd!);
  }
  drop(): void {
    assert.fail("nothing is dropped");
  }
  accept(): void {
    assert.fail("nothing is accepted");
  }
}

describe("a tally", () => {
  test("goes on where the last pager has stopped", () => {
    const keeper = new OneEntry();
    const first = HostTally.open(keeper, null);
    first.add("created", 3);
    first.addEnd("exited", {
      stats: statsOf(4),
      account: waitedFor({ store: 30 }),
      pageSizeBytes: 4096,
    });
    first.addEnd("expired", null);
    using kept = keeper.kept!;
    const second = HostTally.open(keeper, duplicateFd(kept.fd));
    assert.equal(keeper.kept, kept, "it is kept already");
    second.addEnd("exited", {
      ...{ stats: statsOf(1), pageSizeBytes: 2 ** 21 },
      account: waitedFor({ store: 4, disk: 5, guest: 99, fetching: 7 }),
    });
    assert.deepEqual(
      [second.get("created"), second.get("ended.exited"), second.get("ended.expired")],
      [3, 2, 1],
    );
    assert.equal(second.ended.counters().faults, 5);
    assert.equal(
      second.ended.buckets("fault").reduce((sum, count) => sum + count),
      5,
    );
    assert.deepEqual([second.get("waited.store"), second.get("waited.disk")], [34, 5]);
    assert.equal(second.get("bytes.installed"), 8 * 4096 + 2 * 2 ** 21);
  });

  test("begins anew where something else was kept", () => {
    for (const sizeBytes of [1, 36 * 1024]) {
      const keeper = new OneEntry();
      const other = createMemfd("other");
      ftruncateSync(other.fd, sizeBytes);
      const tally = HostTally.open(keeper, other);
      assert.equal(tally.get("created"), 0);
      using kept = keeper.kept;
      assert.ok(kept instanceof OwnedFd, "a new one is kept");
    }
  });

  test("has verdicts only of what a sample tells", () => {
    const { tally, fd } = HostTally.create();
    using _fd = fd;
    const pages = { prefaultedPages: 9, latePages: 2, unplannedPages: 3, savedUs: null };
    tally.addVerdict({ ...pages, usedPages: null, wastedPages: null });
    tally.addVerdict({ ...pages, usedPages: 5, wastedPages: 4 });
    const names = ["used", "wasted", "late", "unplanned"] as const;
    assert.deepEqual(
      names.map((name) => tally.get(`verdict.${name}`)),
      [5, 4, 4, 6],
    );
  });
});

describe("totals", () => {
  test("are the same before and after a VM's end", () => {
    const { tally, fd } = HostTally.create();
    using _fd = fd;
    const numbers: HostNumbers = { ...hostNumbers(3), tally };
    const before = totalsOf(numbers);
    const [first, ...rest] = numbers.vms;
    tally.addEnd("exited", first!);
    const after = totalsOf({ ...numbers, vms: rest });
    assert.deepEqual(after.stats.counters(), before.stats.counters());
    assert.deepEqual(after.stats.buckets("fault"), before.stats.buckets("fault"));
    assert.deepEqual(after.bytes, before.bytes);
    assert.deepEqual(after.waitedUs, before.waitedUs);
    assert.equal(after.waitedUs.store, (1 + 2 + 3) * 1000);
  });

  test("are what the control API tells", () => {
    const { counters, latencyUs, stores, cache } = statisticsOf(hostNumbers(2));
    assert.equal(counters.faults, 10 + 1 + 2);
    assert.ok(Math.abs(latencyUs.p50 - 20) < 2);
    assert.deepEqual([stores[0]?.location, cache.chunks], ["s3://bucket/prefix", 9]);
  });
});
