/** `huge_pages: 2M`: hugetlb memory, where the handshake says so. */
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../../base/units.ts";
import { pagesOf } from "../image.ts";
import type { Scenario } from "../scenario.ts";

const PAGES = HUGE_PAGE_BYTES / SMALL_PAGE_BYTES;
const HUGE = { pageSizeBytes: HUGE_PAGE_BYTES } as const;
const WHOLE_ONLY = "On hugetlb the kernel takes whole, aligned huge pages only (EINVAL otherwise).";

export const hugePageScenarios: readonly Scenario[] = [
  {
    name: "huge-data",
    group: "huge-pages",
    proves: "A fault anywhere in a huge page brings all 512 small pages of it, holes as zeroes.",
    because: WHOLE_ONLY,
    needsHugePages: true,
    play: async (stage) => {
      const vm = await stage.attach(HUGE);
      await vm.expect([PAGES + 7], "file");
      await vm.expect(stage.image.pages, "file", { threads: 4 });
    },
  },
  {
    name: "huge-kernel-mode",
    group: "huge-pages",
    proves: "The kernel's own accesses and writes work on huge pages as well.",
    because: "Devices of the VMM use guest memory of either kind.",
    needsHugePages: true,
    play: async (stage) => {
      const vm = await stage.attach(HUGE);
      await vm.expectWrittenOut({ first: 3, count: 1 }, "file");
      await vm.write([2 * PAGES + 1], "file");
      await vm.expect([2 * PAGES + 1], "written");
      await vm.expect([2 * PAGES, 2 * PAGES + 2], "file");
    },
  },
  {
    name: "huge-holes",
    group: "huge-pages",
    proves: "A huge page that is a hole of the file reads as zeroes.",
    because: "UFFDIO_ZEROPAGE does not exist on hugetlb: zeroes have to be copied.",
    needsHugePages: true,
    hasHotplug: true,
    play: async (stage) => {
      const { bootPages, hotplugPages } = stage.image;
      const vm = await stage.attach({ ...HUGE, regionPages: [bootPages, hotplugPages] });
      await vm.expect(pagesOf({ first: bootPages, count: PAGES }), "zero");
      await vm.write([bootPages + PAGES + 5], "zero");
      await vm.expect([bootPages + PAGES + 5], "written");
    },
  },
  {
    name: "huge-remove",
    group: "huge-pages",
    proves: "A huge page that is given back reads as zeroes, and its neighbours as before.",
    because: "madvise on hugetlb (Linux 5.18 and newer) sends REMOVE for whole huge pages.",
    needsHugePages: true,
    play: async (stage) => {
      const vm = await stage.attach(HUGE);
      await vm.expect([PAGES, 2 * PAGES], "file");
      await vm.remove([{ first: PAGES, count: PAGES }]);
      const removed = pagesOf({ first: PAGES, count: PAGES }).filter((page) => page % 16 === 0);
      await vm.expect(removed, "zero", { when: "after its REMOVE" });
      await vm.expect([PAGES - 1, 2 * PAGES], "file", { when: "beside a REMOVE" });
    },
  },
];
