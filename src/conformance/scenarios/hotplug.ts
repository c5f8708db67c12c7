/**
 * virtio-mem: the handshake announces all memory that may ever be plugged, as the last region. What
 * is not plugged is a hole of the file, registered, and inaccessible (PROT_NONE).
 */
import type { MemoryImage } from "../image.ts";
import { pagesOf } from "../image.ts";
import type { Scenario } from "../scenario.ts";

/** A block of virtio-mem: 2 MiB. */
const BLOCK_PAGES = 512;

const withHotplug = ({ bootPages, hotplugPages }: MemoryImage) => ({
  regionPages: [bootPages, hotplugPages],
});

export const hotplugScenarios: readonly Scenario[] = [
  {
    name: "hotplug-plug",
    group: "hotplug",
    proves: "Memory that is plugged after the restore reads as zeroes, and can be written.",
    because: "The snapshot never held it. At plug time nothing is sent: the region is known.",
    hasHotplug: true,
    play: async (stage) => {
      const first = stage.image.bootPages;
      const vm = await stage.vm(withHotplug(stage.image));
      await vm.protect({ first, count: stage.image.hotplugPages }, false);
      await stage.handler();
      await vm.introduce(stage.socketPath);
      await vm.expect([0, first - 1], "file");
      await vm.protect({ first, count: BLOCK_PAGES }, true);
      const pages = pagesOf({ first, count: BLOCK_PAGES });
      await vm.write(pages.slice(0, 32), "zero");
      await vm.expect(pages.slice(0, 32), "written");
      await vm.expect(pages.slice(32), "zero", { threads: 4 });
    },
  },
  {
    name: "hotplug-boundary",
    group: "hotplug",
    proves: "Pages beside memory that is not accessible are served.",
    because:
      "mprotect(2) splits the mapping, and a copy that crosses the split gets ENOENT, with " +
      "nothing copied: what was to come along must be left out.",
    play: async (stage) => {
      const vm = await stage.vm();
      const closed = [
        { first: 64, count: 8 },
        { first: 80, count: 1 },
      ];
      for (const run of closed) await vm.protect(run, false);
      await stage.handler();
      await vm.introduce(stage.socketPath);
      await vm.expect([63, 72, 79, 81], "file", { when: "beside an inaccessible range" });
      await vm.expect(pagesOf({ first: 40, count: 24 }), "file", { threads: 4 });
      for (const run of closed) await vm.protect(run, true);
      await vm.expect(closed.flatMap(pagesOf), "file", { when: "made accessible again" });
    },
  },
  {
    name: "hotplug-replug",
    group: "hotplug",
    proves: "A block of the snapshot that is unplugged, and plugged again, reads as zeroes.",
    because: "Unplugging gives the block back (REMOVE) and makes it inaccessible.",
    play: async (stage) => {
      const first = stage.image.bootPages - BLOCK_PAGES;
      const vm = await stage.attach({ regionPages: [first, BLOCK_PAGES] });
      const block = { first, count: BLOCK_PAGES };
      const pages = pagesOf(block).filter((page) => page % 8 === 0);
      await vm.expect(pages.slice(0, 16), "file");
      await vm.write(pages.slice(16, 32), "file");
      await vm.remove([block]);
      await vm.protect(block, false);
      await vm.expect([first - 1, 0], "file", { when: "while a block is unplugged" });
      await vm.protect(block, true);
      await vm.expect(pages, "zero", { when: "plugged again" });
      await vm.write(pages, "zero", 4);
      await vm.expect(pages, "written");
    },
  },
];
