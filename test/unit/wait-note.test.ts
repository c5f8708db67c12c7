/** What a VM waits for is said for as long as it waits, and then its pages are left alone. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { WaitNote } from "../../src/daemon/wait-note.ts";
import { PageState, PageTable } from "../../src/pager/page-table.ts";

/** Counts how often all of it is looked at. */
class CountedTable extends PageTable {
  looks = 0;

  constructor(pageCount: number) {
    super(pageCount, new Uint8Array(PageTable.sizeBytes(pageCount)));
  }

  override counts(): readonly [number, number, number, number] {
    this.looks += 1;
    return super.counts();
  }
}

describe("what a VM waits for", () => {
  test("is nothing at first, and nobody looks at its pages", () => {
    const table = new CountedTable(8);
    assert.equal(new WaitNote().reason(table), null);
    assert.equal(table.looks, 0);
  });

  test("is what was told last, while a page is pending", () => {
    const [note, table] = [new WaitNote(), new CountedTable(8)];
    table.set(3, PageState.pending);
    note.tell("a store", 0);
    note.tell("another", 60_000);
    assert.equal(note.reason(table, 170_000), "another");
  });

  test("is said again where the VM waits again too soon to tell", () => {
    const [note, table] = [new WaitNote(), new CountedTable(8)];
    note.tell("a store", 0);
    assert.equal(note.reason(table, 10_000), null);
    table.set(3, PageState.pending);
    assert.equal(note.reason(table, 20_000), "a store");
  });

  test("is forgotten when it is long over: no look at its pages any more", () => {
    const [note, table] = [new WaitNote(), new CountedTable(8)];
    note.tell("a store", 0);
    // An ordinary one, just now.
    table.set(3, PageState.pending);
    assert.equal(note.reason(table, 130_000), null);
    assert.equal(note.last, null);
    const { looks } = table;
    assert.equal(note.reason(table, 130_001), null);
    assert.equal(table.looks, looks);
  });
});
