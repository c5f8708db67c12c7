/** The eviction order: what was used stays, what a scan touched once goes. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Sieve } from "../../src/source/sieve.ts";

/** A sieve with the members 0 to `count - 1`, oldest first, and which of them were used. */
function filled(count: number): { sieve: Sieve; used: Set<number>; evict: () => number } {
  const sieve = new Sieve(64);
  for (let member = 0; member < count; member++) sieve.insert(member);
  const used = new Set<number>();
  const evict = (): number => {
    const victim = sieve.nextVictim((member) => used.delete(member));
    if (victim >= 0) sieve.remove(victim);
    return victim;
  };
  return { sieve, used, evict };
}

describe("the sieve", () => {
  test("gives up the oldest first", () => {
    const { evict } = filled(3);
    assert.deepEqual([evict(), evict(), evict(), evict()], [0, 1, 2, -1]);
  });

  test("spares what was used, once", () => {
    const { used, evict } = filled(3);
    used.add(0);
    assert.deepEqual([evict(), evict(), evict()], [1, 2, 0]);
  });

  test("goes on where it stopped: newcomers do not push out what it has spared", () => {
    const { sieve, used, evict } = filled(4);
    used.add(0).add(1);
    assert.equal(evict(), 2);
    sieve.insert(10);
    sieve.insert(11);
    assert.deepEqual([evict(), evict(), evict()], [3, 10, 11]);
    assert.equal(evict(), 0);
  });

  test("keeps the used ones through a scan of many that are touched once", () => {
    const { sieve, used, evict } = filled(8);
    const hot = [0, 1, 2, 3];
    for (let scanned = 8; scanned < 60; scanned++) {
      for (const member of hot) used.add(member);
      assert.ok(!hot.includes(evict()));
      sieve.insert(scanned);
    }
  });

  test("finds nobody if all have to stay, and ends", () => {
    const { sieve } = filled(5);
    let asked = 0;
    assert.equal(
      sieve.nextVictim(() => {
        asked += 1;
        return true;
      }),
      -1,
    );
    assert.equal(asked, 10);
    assert.equal(sieve.size, 5);
  });

  test("goes on past a member that was removed under its hand", () => {
    const { sieve, used, evict } = filled(4);
    used.add(0);
    assert.equal(evict(), 1); // The hand is at 2 now.
    sieve.remove(2);
    assert.deepEqual([evict(), evict(), evict()], [3, 0, -1]);
  });

  test("refuses to lose track of its members", () => {
    const { sieve } = filled(2);
    assert.throws(() => sieve.insert(1), /already/);
    assert.throws(() => sieve.remove(5), /not in/);
  });
});
