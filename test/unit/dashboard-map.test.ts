/** Whose bytes the cells of a map hold, when they came, and which cells a viewer gets. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type OwnerRuns, runAt, runEnd } from "../../src/base/owner-runs.ts";
import { MapCells } from "../../src/daemon/dashboard/map-cells.ts";
import { agesOf, layersOf } from "../../src/daemon/dashboard/map-layers.ts";
import { hasPage } from "../../src/daemon/dashboard/page-bits.ts";
import { storyOf } from "../../src/daemon/dashboard/page-story.ts";
import {
  cellKinds,
  decodeAges,
  kindOfCell,
  MAX_CELLS,
  NO_AGE,
  NO_LAYER,
} from "../../src/daemon/dashboard/protocol.ts";
import { factsOf, sightOf, windowOf } from "../../src/daemon/dashboard/vm-map.ts";
import { PageState } from "../../src/pager/page-table.ts";
import { Random } from "../support/fixtures.ts";
import { PAGE, TableVm, VM_ADDRESS } from "../support/table-dashboard.ts";

const names = ["base", "diff1", "diff2"];
const layers = { names, indexOf: (owner: number): number => owner };

function randomRuns(random: Random, sizeBytes: number): OwnerRuns {
  const starts = [0];
  for (let at = 0; at < sizeBytes; ) {
    at += 512 * (1 + random.below(60));
    if (at < sizeBytes) starts.push(at);
  }
  const owners = starts.map(() => random.below(4) - 1);
  return { sizeBytes, starts: Float64Array.from(starts), owners: Int32Array.from(owners) };
}

/** The layer with most bytes of a stretch, counted sector by sector. */
function layerOf(runs: OwnerRuns, from: number, to: number): number {
  const held = names.map(() => 0);
  for (let at = from; at < Math.min(to, runs.sizeBytes); at += 512) {
    const owner = runs.owners[runAt(runs, at)]!;
    assert.ok(runEnd(runs, runAt(runs, at)) > at);
    if (owner >= 0) held[owner]! += 512;
  }
  const most = Math.max(...held);
  return most === 0 ? NO_LAYER : held.indexOf(most);
}

describe("a map", () => {
  test("names the layer that holds most of each cell", () => {
    const random = new Random(3);
    for (let round = 0; round < 100; round++) {
      const pages = 1 + random.below(200);
      const runs = randomRuns(random, pages * PAGE);
      const first = random.below(pages);
      const scale = 1 + random.below(20);
      const cells = 1 + random.below(Math.ceil((pages - first) / scale));
      const found = layersOf(runs, layers, PAGE, { first, scale, cells });
      const wanted = Uint8Array.from({ length: cells }, (_, cell) => {
        const from = (first + cell * scale) * PAGE;
        return layerOf(runs, from, from + scale * PAGE);
      });
      assert.deepEqual(found, wanted, `round ${round}`);
    }
  });

  test("tells when the newest page of a cell came", () => {
    const pages = Uint32Array.of(5, 40, 4, 1000);
    const times = Uint32Array.of(1000, 2000, 70_999, 80_000);
    const bytes = agesOf(pages, times, { first: 4, scale: 4, cells: 3 });
    const ages = decodeAges(Buffer.from(bytes).toString("base64"));
    assert.deepEqual([...ages], [70, NO_AGE, NO_AGE]);
  });

  test("has few enough cells of 64 KiB and more, or those that were asked for", () => {
    const GIB = 2 ** 30;
    const wholeOf = (sizeBytes: number, page: number): unknown =>
      windowOf({}, sizeBytes / page, page);
    assert.deepEqual(wholeOf(GIB, PAGE), { first: 0, scale: 16, cells: 16_384 });
    assert.deepEqual(wholeOf(16 * GIB, PAGE), { first: 0, scale: 16, cells: MAX_CELLS });
    assert.deepEqual(wholeOf(17 * GIB, PAGE), { first: 0, scale: 32, cells: 139_264 });
    assert.deepEqual(wholeOf(GIB, 2 ** 21), { first: 0, scale: 1, cells: 512 });
    const asked = windowOf({ first: 90, scale: 1, cells: 1000 }, 100, PAGE);
    assert.deepEqual(asked, { first: 90, scale: 1, cells: 10 }, "cut at the VM's end");
    for (const [query, field] of [
      [{ first: 100 }, "first"],
      [{ scale: 0 }, "scale"],
      [{ cells: 0 }, "cells"],
    ] as const) {
      assert.throws(() => windowOf(query, 100, PAGE), { status: 400, field });
    }
    assert.throws(() => windowOf({ scale: 1 }, GIB / PAGE + 1, PAGE), {
      status: 400,
      message: /at most 262144 cells, and these are 262145.*such as 16/,
    });
  });

  test("has the story of each page", () => {
    const vm = new TableVm(64);
    vm.pageTable.set(7, PageState.installed);
    vm.demandLog.add(9, 500);
    vm.demandLog.add(7, 1500);
    vm.account.begin(1, 10);
    vm.account.charge(6, 2, 100, 900, 5);
    vm.plan = {
      runs: { starts: Uint32Array.of(8), counts: Uint32Array.of(2) },
      completes: false,
      before: null,
    };
    assert.deepEqual(storyOf(vm, 7), {
      page: 7,
      state: "present",
      guestOffset: 7 * PAGE,
      hostAddress: `0x${(VM_ADDRESS + 7 * PAGE).toString(16)}`,
      region: 0,
      source: {
        kind: "file",
        name: "/srv/vm.mem",
        offset: 7 * PAGE,
        store: null,
        sizeBytes: 64 * PAGE,
      },
      inCache: true,
      demandedAfterMs: 1.5,
      demandOrder: 1,
      prefault: "unplanned",
      costUs: 800,
      cause: "deferred",
    });
    const other = storyOf(vm, 8);
    assert.deepEqual(
      [other.state, other.prefault, other.demandOrder, other.costUs],
      ["untouched", "planned", null, null],
    );
    vm.plan = { ...vm.plan, completes: true, before: vm.pageTable.bytes.slice() };
    const planned = [6, 7, 8, 63].map((page) => storyOf(vm, page).prefault);
    assert.deepEqual(planned, ["planned", "unplanned", "planned", "planned"]);
    assert.throws(() => storyOf(vm, 64), { status: 404, message: /up to 63/ });
  });

  test("says of each page in its story what its cell says", () => {
    const random = new Random(11);
    const pages = 333;
    const bytes = (): Uint8Array => Uint8Array.from({ length: 84 }, () => random.below(256));
    const kinds = new Set<string>();
    for (let round = 0; round < 20; round++) {
      const owner = (): number => random.below(3) - 1;
      const vm = new TableVm(pages, Int32Array.from({ length: pages }, owner));
      vm.pageTable.bytes.set(bytes());
      for (let page = 0; page < pages; page += 1 + random.below(9)) vm.demandLog.add(page, page);
      if (round % 3 === 0) vm.dirty = bytes();
      const runs = { starts: Uint32Array.of(200, 5), counts: Uint32Array.of(100, 20) };
      if (round % 4 > 0) {
        const before = round % 2 === 0 ? bytes() : null;
        vm.plan = { runs, completes: round % 4 > 1, before };
      }
      const facts = factsOf(vm);
      const cells = new MapCells(pages, { first: 0, scale: 1, cells: pages }, facts, sightOf(vm));
      cells.fill(pages);
      for (let page = 0; page < pages; page++) {
        const { state, prefault } = storyOf(vm, page);
        kinds.add(state);
        assert.equal(state, cellKinds[kindOfCell(cells.states[page]!)], `${round}: page ${page}`);
        const { planned } = facts;
        const said = planned && (hasPage(planned, page) ? "planned" : "unplanned");
        assert.equal(prefault, said, `${round}: page ${page}`);
      }
    }
    assert.equal(kinds.size, cellKinds.length - 1, "all but none");
  });
});
