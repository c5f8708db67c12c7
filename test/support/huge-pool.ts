/** The host's pool of 2 MiB pages, which everybody shares. */
import { readFileSync } from "node:fs";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import { MappedRegion } from "../../src/linux/memory.ts";

const FREE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/** Takes pages of the pool until only `left` are left. Whoever else uses the pool is in the way. */
export function occupyPool(left: number): MappedRegion {
  const count = Number(readFileSync(FREE_PAGES, "utf8")) - left;
  const region = MappedRegion.anonymous(count * HUGE_PAGE_BYTES, { hugePages: true });
  const bytes = new Uint8Array(region.view());
  for (let page = 0; page < count; page++) bytes[page * HUGE_PAGE_BYTES] = 1;
  return region;
}
