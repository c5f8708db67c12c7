/** The bits of one VM's pages: which are set, and when, against a real userfaultfd. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { hasBit } from "../../src/base/bitmap.ts";
import { hostAddress, imageOffset } from "../../src/base/units.ts";
import { DirtyTracker } from "../../src/engine/dirty-tracker.ts";
import { MADV_DONTNEED } from "../../src/linux/abi-posix.ts";
import { UFFD_PAGEFAULT_FLAG_WRITE, UFFDIO_COPY_MODE_WP } from "../../src/linux/abi-userfaultfd.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { PageState, PageTable } from "../../src/pager/page-table.ts";
import { QUEUE_CAPACITY } from "../../src/pager/planner.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { bitmapBytesOf, busyOffset } from "../../src/snapshot/session-file.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");
const PAGE_COUNT = 16;
const HALF = PAGE_COUNT / 2;
const HEADER_BYTES = PAGE;

/** A VM whose two regions are neighbours in its memory, and the other way round in the image. */
class TrackedStage extends Stage {
  readonly table = new PageTable(PAGE_COUNT, new Uint8Array(PageTable.sizeBytes(PAGE_COUNT)));
  readonly file = MappedRegion.anonymous(HEADER_BYTES + 2 * bitmapBytesOf(PAGE_COUNT));
  readonly tracker: DirtyTracker;

  constructor() {
    super({ features: ["eventRemove"], modes: ["missing", "writeProtect"] });
    this.own(this.file);
    const sizeBytes = HALF * PAGE;
    const regions = new RegionMap(
      [
        {
          baseHostAddress: hostAddress(this.page(0)),
          sizeBytes,
          imageOffset: imageOffset(sizeBytes),
        },
        { baseHostAddress: hostAddress(this.page(HALF)), sizeBytes, imageOffset: imageOffset(0) },
      ],
      PAGE,
    );
    const bitmapBytes = bitmapBytesOf(PAGE_COUNT);
    const setup = { address: this.file.address, headerBytes: HEADER_BYTES, bitmapBytes };
    this.tracker = new DirtyTracker(setup, regions, this.table);
  }

  get busy(): number {
    return new Uint32Array(this.file.view(), busyOffset, 1)[0]!;
  }

  /** Pages of the image with their bit. */
  get written(): number[] {
    return this.#bits(HEADER_BYTES);
  }

  get removed(): number[] {
    return this.#bits(HEADER_BYTES + bitmapBytesOf(PAGE_COUNT));
  }

  /** A missing fault at page `index` of the memory, by a writer. */
  wantToWrite(index: number): void {
    this.tracker.fault(this.page(index) + 8, UFFD_PAGEFAULT_FLAG_WRITE);
  }

  #bits(offset: number): number[] {
    const bits = new Uint8Array(this.file.view(), offset, bitmapBytesOf(PAGE_COUNT));
    const pages = Array.from({ length: PAGE_COUNT }, (_, page) => page);
    return pages.filter((page) => hasBit(bits, page));
  }
}

describe("how pages are installed", needs, () => {
  test("protected for readers, unprotected and recorded for writers", async () => {
    await using stage = new TrackedStage();
    const { tracker } = stage;
    tracker.fault(stage.page(0), 0);
    assert.equal(tracker.installMode(HALF, 1), UFFDIO_COPY_MODE_WP);
    assert.deepEqual(stage.written, []);
    stage.wantToWrite(1);
    assert.deepEqual(stage.written, [], "not before the page is there");
    assert.equal(tracker.installMode(HALF + 1, 1), 0);
    assert.deepEqual(stage.written, [HALF + 1]);
  });

  test("together: protected if any of them is clean", async () => {
    await using stage = new TrackedStage();
    const { tracker } = stage;
    for (const index of [HALF, HALF + 1, HALF + 3]) stage.wantToWrite(index);
    assert.equal(tracker.installMode(0, 4), UFFDIO_COPY_MODE_WP);
    assert.deepEqual(stage.written, []);
    assert.equal(tracker.installMode(0, 2), 0);
    assert.deepEqual(stage.written, [0, 1]);
    tracker.remove(stage.page(HALF + 2), stage.page(HALF + 3));
    assert.equal(tracker.installMode(0, 4), 0);
    assert.deepEqual([stage.written, stage.removed], [[0, 1, 3], [2]]);
  });

  test("zeroes in place of what was there once are a removal that nobody told of", async () => {
    await using stage = new TrackedStage();
    stage.table.set(3, PageState.installed);
    stage.table.set(4, PageState.pending);
    stage.tracker.zeroesInstalled(2, 4);
    assert.deepEqual(stage.removed, [3]);
  });
});

describe("what is removed", needs, () => {
  test("counts in whole pages, in every region that it touches", async () => {
    await using stage = new TrackedStage();
    stage.tracker.remove(stage.page(6) + 1, stage.page(10) + 1);
    assert.deepEqual(stage.removed, [0, 1, HALF + 7]);
    assert.deepEqual(stage.written, []);
  });

  test("is being recorded while the file says so", async () => {
    await using stage = new TrackedStage();
    assert.equal(stage.busy, 0);
    stage.tracker.beginReading();
    assert.equal(stage.busy, 1);
    stage.tracker.endReading();
    assert.equal(stage.busy, 2);
  });
});

describe("lifting the protection", needs, () => {
  test("neighbours at once, but not across regions; duplicates do no harm", async () => {
    await using stage = new TrackedStage();
    const { tracker, uffd } = stage;
    const source = stage.source();
    uffd.copy(stage.page(0), source, PAGE_COUNT * PAGE, UFFDIO_COPY_MODE_WP);
    for (const index of [9, 6, 7, 6, 8, 2]) {
      assert.equal(tracker.protectedFault(stage.page(index) + 5), "queued");
    }
    assert.equal(tracker.lift(uffd), "done");
    assert.equal(tracker.liftedPages, 5);
    assert.equal(tracker.queuedPages, 0);
    assert.deepEqual(stage.written, [0, 1, HALF + 2, HALF + 6, HALF + 7]);
    for (const index of [2, 6, 7, 8, 9]) await stage.toucher().write(stage.page(index), 9).done();
    const touch = stage.toucher().write(stage.page(3), 9);
    await stage.drained();
    assert.equal(touch.isDone, false, "the others are still protected");
  });

  test("deferred: kept while an event is unread, though recorded already", async () => {
    await using stage = new TrackedStage();
    const { tracker, uffd } = stage;
    uffd.copy(stage.page(0), stage.source(), PAGE, UFFDIO_COPY_MODE_WP);
    const range = { address: stage.page(5), lengthBytes: PAGE, advice: MADV_DONTNEED };
    const given = stage.toucher().start({ what: "madvise", ...range });
    await stage.readable();
    tracker.protectedFault(stage.page(0));
    assert.equal(tracker.lift(uffd), "deferred");
    assert.deepEqual([tracker.queuedPages, tracker.liftedPages], [1, 0]);
    assert.deepEqual(stage.written, [HALF]);
    await stage.drained();
    await given.done();
    assert.equal(tracker.lift(uffd), "done");
    assert.equal(tracker.liftedPages, 1);
  });

  test("a fault elsewhere is none of the VM's, and the queue has an end", async () => {
    await using stage = new TrackedStage();
    const { tracker } = stage;
    assert.equal(tracker.protectedFault(stage.page(PAGE_COUNT)), "outside");
    for (let fault = 0; fault < QUEUE_CAPACITY; fault++) tracker.protectedFault(stage.page(0));
    assert.equal(tracker.protectedFault(stage.page(0)), "overflow");
  });
});
