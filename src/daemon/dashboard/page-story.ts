/** All that is known of one page of a VM. */
import { formatHex } from "../../base/units.ts";
import { HttpError } from "../control/problem.ts";
import { MapCells } from "./map-cells.ts";
import { hasPage } from "./page-bits.ts";
import { cellKinds, kindOfCell, type PageStory } from "./protocol.ts";
import type { WatchedVm } from "./source.ts";
import { factsOf, sightOf } from "./vm-map.ts";

/** @throws HttpError 404: the VM has no such page */
export function storyOf(vm: WatchedVm, page: number): PageStory {
  const { regions, demandLog, account } = vm;
  const region = regions.regionOfPage(page);
  if (region < 0) {
    const message = `The VM has no page ${page}: it has pages up to ${regions.pageLimit - 1}.`;
    throw new HttpError(404, message);
  }
  const window = { first: page, scale: 1, cells: 1 };
  const facts = factsOf(vm);
  const { planned } = facts;
  const cells = new MapCells(regions.pageLimit, window, facts, sightOf(vm));
  cells.fill(1);
  const order = demandLog?.pages().indexOf(page) ?? -1;
  const dear = account.dearest().find((each) => page >= each.page && page < each.page + each.pages);
  return {
    page,
    state: cellKinds[kindOfCell(cells.states[0]!)]!,
    guestOffset: page * regions.pageSizeBytes,
    hostAddress: formatHex(regions.addressOf(region, page)),
    region,
    ...vm.sourceOf(page),
    demandedAfterMs: order < 0 ? null : demandLog!.timesUs()[order]! / 1000,
    demandOrder: order < 0 ? null : order,
    prefault: planned === null ? null : hasPage(planned, page) ? "planned" : "unplanned",
    costUs: dear?.costUs ?? null,
    cause: dear?.cause ?? null,
  };
}
