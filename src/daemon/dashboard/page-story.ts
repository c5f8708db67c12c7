/**
 * All that is known of one page of a VM. People hover over many pages, and VMs wait for this
 * thread: no other page is classified.
 */
import { formatHex } from "../../base/units.ts";
import { HttpError } from "../control/problem.ts";
import { classify, settledPages } from "./cell-kinds.ts";
import { cellKinds, kindOfCell, type PageStory } from "./protocol.ts";
import type { WatchedPlan, WatchedVm } from "./source.ts";

/** @throws HttpError 404: the VM has no such page */
export function storyOf(vm: WatchedVm, page: number): PageStory {
  const { regions, demandLog, account, pageTable, plan } = vm;
  const region = regions.regionOfPage(page);
  if (region < 0) {
    const message = `The VM has no page ${page}: it has pages up to ${regions.pageLimit - 1}.`;
    throw new HttpError(404, message);
  }
  // The table first: who installs a page has noted its demand before.
  const state = pageTable.get(page);
  const order = demandLog?.pages().indexOf(page) ?? -1;
  const isInPlan = plan !== null && isPlanned(plan, page);
  const { source, inCache } = vm.sourceOf(page);
  // As the only page of its word, by the rules of the map.
  const words = { firstWord: 0, states: Int32Array.of(state), dirty: bitOf(isDirty(vm, page)) };
  const facts = {
    existing: null,
    zero: bitOf(source.kind === "zero"),
    planned: bitOf(isInPlan),
    demanded: bitOf(order >= 0),
  };
  const dear = account.dearest().find((each) => page >= each.page && page < each.page + each.pages);
  return {
    page,
    state: cellKinds[kindOfCell(classify(words, facts, 0, 1))]!,
    guestOffset: page * regions.pageSizeBytes,
    hostAddress: formatHex(regions.addressOf(region, page)),
    region,
    ...{ source, inCache },
    demandedAfterMs: order < 0 ? null : demandLog!.timesUs()[order]! / 1000,
    demandOrder: order < 0 ? null : order,
    prefault: plan === null ? null : isInPlan ? "planned" : "unplanned",
    costUs: dear?.costUs ?? null,
    cause: dear?.cause ?? null,
  };
}

function isPlanned({ runs, completes, before }: WatchedPlan, page: number): boolean {
  const wasThere = settledPages(before?.[page >>> 2] ?? 0) & (1 << (page & 3));
  if (completes && wasThere === 0) return true;
  return runs.starts.some((start, run) => page >= start && page < start + runs.counts[run]!);
}

function isDirty(vm: WatchedVm, page: number): boolean {
  const bits = vm.dirtyBits();
  return bits !== null && (bits[page >>> 3]! & (1 << (page & 7))) !== 0;
}

function bitOf(is: boolean): Uint16Array {
  return Uint16Array.of(is ? 1 : 0);
}
