/** A planner over drawn layers, spoken to in page numbers; its plans read as lines of text. */
import assert from "node:assert/strict";
import type { Outcome } from "../../src/base/outcome.ts";
import { hostAddress, imageOffset, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { ActionKind, ActionList } from "../../src/pager/actions.ts";
import { PageState, PageTable } from "../../src/pager/page-table.ts";
import { type FaultVerdict, Planner, type Settlement } from "../../src/pager/planner.ts";
import { type Extent, flattenLayers } from "../../src/snapshot/layers.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";

export interface StageOptions {
  /** Each character is a part of the image; `#`: the layer holds it. Base first. */
  readonly layers: readonly string[];
  /** The pages of each region, in image order; by default one region with all. */
  readonly regionPages?: readonly number[];
  readonly pageSizeBytes?: number;
  /** Characters per page: more than one makes pages that several layers share. */
  readonly partsPerPage?: number;
  readonly maxRunPages?: number;
  readonly maxStreamPages?: number;
}

const FIRST_BASE = 0x7000_0000_0000;
/** Regions lie this far apart in host memory, in the opposite order of the image. */
const REGION_STRIDE = 2 ** 40;

const stateNames = Object.entries(PageState);

export class PlannerStage {
  readonly planner: Planner;
  readonly table: PageTable;
  readonly regions: RegionMap;
  readonly actions = new ActionList();
  readonly pageSizeBytes: number;

  constructor(options: StageOptions) {
    this.pageSizeBytes = options.pageSizeBytes ?? SMALL_PAGE_BYTES;
    const partsPerPage = options.partsPerPage ?? 1;
    const partBytes = this.pageSizeBytes / partsPerPage;
    const pages = options.layers[0]!.length / partsPerPage;
    this.regions = new RegionMap(
      regionsOf(options.regionPages ?? [pages], this.pageSizeBytes),
      this.pageSizeBytes,
    );
    this.table = new PageTable(pages, new Uint8Array(PageTable.sizeBytes(pages)));
    this.planner = new Planner({
      regions: this.regions,
      runs: flattenLayers(
        pages * this.pageSizeBytes,
        options.layers.map((layer) => extentsOf(layer, partBytes)),
      ),
      table: this.table,
      maxRunPages: options.maxRunPages ?? 512,
      maxStreamPages: options.maxStreamPages ?? 0,
    });
  }

  addressOf(page: number): number {
    return this.regions.addressOf(this.regions.regionOfPage(page), page);
  }

  /** Faults on pages, in this order; returns what became of the last. */
  fault(...pages: readonly number[]): FaultVerdict {
    let verdict: FaultVerdict = "outside";
    for (const page of pages) verdict = this.planner.fault(this.addressOf(page));
    return verdict;
  }

  /** A REMOVE of pages `first` to `end`, exclusive, all in one region. */
  remove(first: number, end: number): number {
    return this.planner.remove(
      this.addressOf(first),
      this.addressOf(first) + (end - first) * this.pageSizeBytes,
    );
  }

  /** The plan as lines: `copy 4+2 of 1` copies pages 4 and 5 from layer 1. */
  plan(maxPages?: number): string[] {
    const count = this.planner.plan(this.actions, maxPages);
    assert.equal(count, this.actions.length);
    return Array.from({ length: count }, (_, index) => this.#line(index));
  }

  settle(index: number, outcome: Outcome, donePages = 0): Settlement {
    return this.planner.settle(this.actions, index, outcome, donePages * this.pageSizeBytes);
  }

  /** Plans, settles every action with one outcome, ends the plan. Returns the settlements. */
  turn(outcome: Outcome): Settlement[] {
    const settlements = this.plan().map((_, index) => this.settle(index, outcome));
    this.planner.finishPlan();
    return settlements;
  }

  /** What the next plan would be, without leaving a trace: everything in it is put off. */
  waiting(): string[] {
    const lines = this.plan();
    for (const index of lines.keys()) this.settle(index, "deferred");
    this.planner.finishPlan();
    return lines;
  }

  state(page: number): string {
    const state = this.table.get(page);
    return stateNames.find(([, value]) => value === state)![0];
  }

  #line(index: number): string {
    const { kinds, owners, firstPages, pageCounts, regions } = this.actions;
    const first = firstPages[index]!;
    const pages = `${first}+${pageCounts[index]}`;
    assert.equal(regions[index], this.regions.regionOfPage(first), "the action's region");
    switch (kinds[index]) {
      case ActionKind.copy:
        return `copy ${pages} of ${owners[index]}`;
      case ActionKind.assemble:
        return `assemble ${pages}`;
      default:
        return `zero ${pages}`;
    }
  }
}

function regionsOf(regionPages: readonly number[], pageSizeBytes: number) {
  let offset = 0;
  return regionPages.map((pages, index) => {
    const region = {
      baseHostAddress: hostAddress(FIRST_BASE - index * REGION_STRIDE),
      sizeBytes: pages * pageSizeBytes,
      imageOffset: imageOffset(offset),
    };
    offset += region.sizeBytes;
    return region;
  });
}

function extentsOf(layer: string, partBytes: number): Extent[] {
  return [...layer].flatMap((mark, part) =>
    mark === "#" ? [{ start: part * partBytes, end: (part + 1) * partBytes }] : [],
  );
}
