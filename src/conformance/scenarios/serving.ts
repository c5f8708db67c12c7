/** Pages come, each with its own bytes, whoever asks and in whatever order. */
import { pagesOf, shuffled } from "../image.ts";
import type { Scenario } from "../scenario.ts";
import { PROBE_PAGES } from "../stage.ts";
import { MAX_THREADS } from "../vm-process.ts";

const KERNEL_MODE =
  "The VMM passes guest memory to system calls for block devices, sockets and snapshots; then " +
  "the kernel itself faults on the missing page.";

export const servingScenarios: readonly Scenario[] = [
  {
    name: "sequential-read",
    group: "serving",
    proves: "Every byte of the memory, touched in order, is that of the memory file.",
    because: "This is what a page-fault handler is for.",
    play: async (stage) => {
      const vm = await stage.attach();
      await vm.expect(stage.image.pages, "file");
    },
  },
  {
    name: "random-read",
    group: "serving",
    proves: "The same in random order, with four threads.",
    because: "Guests touch their memory as they please, with several vCPUs.",
    play: async (stage) => {
      const vm = await stage.attach();
      await vm.expect(shuffled(stage.image.pages), "file", { threads: 4 });
    },
  },
  {
    name: "same-page",
    group: "serving",
    proves: "Many threads that fault on one page all go on.",
    because: "Each brings a message of its own; one UFFDIO_COPY wakes all, the next says EEXIST.",
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const pages = Array.from({ length: 32 }, () => PROBE_PAGES[0]!);
      const reading = vm.read(pages, pages.length);
      await vm.untilBlocked(pages.length, true);
      handler.thaw();
      vm.assess(pages, await reading, "file");
      // The first answer has woken all; the others must not have upset the handler.
      await vm.expect(PROBE_PAGES, "file");
    },
  },
  {
    name: "many-threads",
    group: "serving",
    proves: `${MAX_THREADS} faults on different pages that are pending at once are all answered.`,
    because: "read(2) hands out as many messages as there is room for, and keeps the rest.",
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const pages = Array.from({ length: MAX_THREADS }, (_, index) => 2 + 7 * index);
      const reading = vm.read(pages, pages.length);
      await vm.untilBlocked(pages.length, true);
      handler.thaw();
      vm.assess(pages, await reading, "file");
    },
  },
  {
    name: "kernel-mode-read",
    group: "serving",
    proves: "write(2) from missing memory gets the bytes of the memory file.",
    because: KERNEL_MODE,
    play: async (stage) => {
      const vm = await stage.attach();
      for (const first of PROBE_PAGES) await vm.expectWrittenOut({ first, count: 1 }, "file");
    },
  },
  {
    name: "kernel-mode-write",
    group: "serving",
    proves: "read(2) into missing memory changes what it writes, and no other byte of the page.",
    because: KERNEL_MODE,
    play: async (stage) => {
      const vm = await stage.attach();
      await vm.readIn(PROBE_PAGES);
      await vm.expect(PROBE_PAGES, "written");
    },
  },
  {
    name: "snapshot-of-all",
    group: "serving",
    proves:
      "write(2) over the whole memory, 1 MiB a time, most of it missing, is right to the byte.",
    because:
      "Firecracker writes a full snapshot so: each page that is missing faults in the kernel.",
    play: async (stage) => {
      const { pageCount } = stage.image;
      const vm = await stage.attach();
      await vm.expect(PROBE_PAGES, "file");
      for (let first = 0; first < pageCount; first += 256) {
        await vm.expectWrittenOut({ first, count: 256 }, "file");
      }
    },
  },
  {
    name: "writes-survive",
    group: "serving",
    proves: "What the guest writes stays, whatever faults in around it afterwards.",
    because: "A page that is present belongs to the guest; only a missing one may be filled.",
    play: async (stage) => {
      const vm = await stage.attach();
      const written = pagesOf({ first: 0, count: 128 }).filter((page) => page % 3 === 1);
      await vm.write(written, "file", 4);
      const others = pagesOf({ first: 0, count: 128 }).filter((page) => page % 3 !== 1);
      await vm.expect(others, "file", { threads: 4 });
      await vm.expect(written, "written");
    },
  },
  {
    name: "neighbours-present",
    group: "serving",
    proves: "Missing pages between others that are present already are filled.",
    because:
      "A copy of several pages ends at the first present one: EEXIST if it is the first of them, " +
      "EAGAIN and a count if not. The rest is still to be done. A page that was given back and " +
      "touched again stands like that among missing ones.",
    play: async (stage) => {
      const vm = await stage.attach();
      const pages = pagesOf({ first: 0, count: 256 });
      const even = pages.filter((page) => page % 2 === 0);
      const odd = pages.filter((page) => page % 2 === 1);
      await vm.remove(
        even.map((page) => ({ first: page, count: 1 })),
        2,
      );
      await vm.write(even, "zero", 4);
      await vm.expect(odd, "file", { when: "between present pages", threads: 4 });
      await vm.expect(even, "written");
    },
  },
  {
    name: "holes",
    group: "serving",
    proves: "Holes of the memory file read as zeroes, and what adjoins them as data.",
    because: "Snapshots of sparse memory are sparse files; read(2) says zero for a hole.",
    play: async (stage) => {
      const vm = await stage.attach();
      const around = stage.image.holes.flatMap((run) => [run.first - 1, run.first + run.count]);
      await vm.expect(around, "file");
      await vm.expect(stage.image.holes.flatMap(pagesOf), "zero");
      await vm.expect(around, "file");
    },
  },
  {
    name: "zero-pages",
    group: "serving",
    proves: "Pages of zeroes that the file does hold read as zeroes, and can be written.",
    because: "A handler may install the kernel's zero page for them: it must not be shared.",
    play: async (stage) => {
      const vm = await stage.attach();
      await vm.expect(PROBE_PAGES, "file");
      const pages = pagesOf(stage.image.zeroes);
      await vm.expect(pages, "zero");
      await vm.write(pages.slice(0, 4), "zero");
      await vm.expect(pages.slice(0, 4), "written");
      await vm.expect(pages.slice(4), "zero");
    },
  },
  {
    name: "last-page",
    group: "serving",
    proves: "The last page is served, to readers and to writers.",
    because: "What is fetched ahead must end with the region and with the file.",
    play: async (stage) => {
      const last = stage.image.pageCount - 1;
      const vm = await stage.attach();
      await vm.write([last], "file");
      await vm.expect([last], "written");
      await vm.expect([last - 1, last - 2], "file");
    },
  },
];
