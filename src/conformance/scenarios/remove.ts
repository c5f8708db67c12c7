/**
 * Memory that the guest gives back (balloon, free page hinting and reporting, virtio-mem). The VMM
 * calls madvise(MADV_DONTNEED), which blocks until the handler has read the REMOVE event. From then
 * on the range reads as zeroes.
 */
import { type PageRun, pagesOf } from "../image.ts";
import type { Scenario } from "../scenario.ts";

const ZERO_AFTER =
  "The guest was told that these pages are gone; what a snapshot once held there is not theirs.";
const UNREAD =
  "While a REMOVE is unread the kernel refuses every UFFDIO_COPY with EAGAIN; the event must be " +
  "read first, and then the copy tried again.";

const singles = (pages: readonly number[]): PageRun[] =>
  pages.map((page) => ({ first: page, count: 1 }));

export const removeScenarios: readonly Scenario[] = [
  {
    name: "remove-populated",
    group: "remove",
    proves: "madvise on pages that were served returns, and they read as zeroes afterwards.",
    because: ZERO_AFTER,
    play: async (stage) => {
      const vm = await stage.attach();
      const run = { first: 32, count: 64 };
      await vm.expect(pagesOf(run), "file");
      await vm.remove([run]);
      await vm.expect(pagesOf(run), "zero", { when: "after its REMOVE" });
    },
  },
  {
    name: "remove-missing",
    group: "remove",
    proves: "madvise on pages that nobody touched returns, and they read as zeroes afterwards.",
    because: `${ZERO_AFTER} REMOVE comes for missing pages too.`,
    play: async (stage) => {
      const vm = await stage.attach();
      const run = { first: 32, count: 64 };
      await vm.remove([run]);
      await vm.expect(pagesOf(run), "zero", { when: "after its REMOVE" });
    },
  },
  {
    name: "remove-mixed",
    group: "remove",
    proves: "The same for a range of served, written and missing pages, and for nothing beside it.",
    because: `${ZERO_AFTER} The end of a REMOVE is exclusive.`,
    play: async (stage) => {
      const vm = await stage.attach();
      const run = { first: 100, count: 60 };
      const pages = pagesOf(run);
      await vm.expect(pages.slice(0, 20), "file");
      await vm.write(pages.slice(20, 40), "file");
      await vm.remove([run]);
      await vm.expect([99, 160, 98, 161], "file", { when: "beside a REMOVE" });
      await vm.expect(pages, "zero", { when: "after its REMOVE", threads: 4 });
    },
  },
  {
    name: "remove-again",
    group: "remove",
    proves: "A range can be given back again and again, touched in between or not.",
    because: ZERO_AFTER,
    play: async (stage) => {
      const vm = await stage.attach();
      const run = { first: 200, count: 32 };
      await vm.expect(pagesOf(run).slice(0, 16), "file");
      await vm.remove([run]);
      await vm.remove([run]);
      await vm.expect(pagesOf(run), "zero", { when: "after two REMOVEs" });
      await vm.write(pagesOf(run), "zero");
      await vm.remove([run]);
      await vm.expect(pagesOf(run), "zero", { when: "after a third REMOVE" });
    },
  },
  {
    name: "remove-all",
    group: "remove",
    proves: "All of the memory can be given back at once.",
    because: ZERO_AFTER,
    play: async (stage) => {
      const vm = await stage.attach();
      await vm.expect(pagesOf({ first: 0, count: 16 }), "file");
      await vm.remove([{ first: 0, count: stage.image.pageCount }]);
      const some = stage.image.pages.filter((page) => page % 5 === 0);
      await vm.expect(some, "zero", { when: "after the REMOVE of everything", threads: 4 });
    },
  },
  {
    name: "remove-scattered",
    group: "remove",
    proves: "Missing pages among removed ones are filled, and the removed ones are not.",
    because: `${ZERO_AFTER} Whoever fills several pages at once must leave them out.`,
    play: async (stage) => {
      const vm = await stage.attach();
      const pages = pagesOf({ first: 320, count: 128 });
      const given = pages.filter((page) => page % 3 !== 0);
      const kept = pages.filter((page) => page % 3 === 0);
      await vm.remove(singles(given), 2);
      await vm.expect(kept, "file", { when: "among removed pages", threads: 2 });
      await vm.expect(given, "zero", { when: "after its REMOVE", threads: 2 });
    },
  },
  {
    name: "remove-across-regions",
    group: "remove",
    proves: "A range over the end of one region and the start of the next is given back.",
    because: "It comes as one madvise, and one REMOVE, for each region.",
    play: async (stage) => {
      const { pageCount } = stage.image;
      const vm = await stage.attach({ regionPages: [400, pageCount - 400] });
      await vm.expect([380, 399, 400, 420], "file");
      const runs = [
        { first: 390, count: 10 },
        { first: 400, count: 10 },
      ];
      await vm.remove(runs);
      await vm.expect(runs.flatMap(pagesOf), "zero", { when: "after its REMOVE" });
      await vm.expect([0, 389, 410, pageCount - 1], "file", { when: "beside a REMOVE" });
    },
  },
  {
    name: "remove-unread",
    group: "remove",
    proves: "A fault that is read while a REMOVE elsewhere is unread is answered in the end.",
    because: UNREAD,
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const removing = vm.remove([{ first: 64, count: 8 }]);
      await vm.untilUnread();
      const reading = vm.read([1200]);
      await vm.untilBlocked(1, true);
      handler.thaw();
      await removing;
      vm.assess([1200], await reading, "file", "after a REMOVE was unread");
      await vm.expect(pagesOf({ first: 64, count: 8 }), "zero", { when: "after its REMOVE" });
    },
  },
  {
    name: "remove-many-unread",
    group: "remove",
    proves: "Many REMOVEs and many faults that are unread at once are all taken.",
    because: `${UNREAD} There can be as many as the VMM has threads.`,
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const runs = Array.from({ length: 16 }, (_, index) => ({ first: 32 + 4 * index, count: 2 }));
      const removing = vm.remove(runs, runs.length);
      await vm.untilUnread();
      const pages = Array.from({ length: 32 }, (_, index) => 720 + 5 * index);
      const reading = vm.read(pages, pages.length);
      await vm.untilBlocked(pages.length, true);
      handler.thaw();
      await removing;
      vm.assess(pages, await reading, "file", "after REMOVEs were unread");
      await vm.expect(runs.flatMap(pagesOf), "zero", { when: "after its REMOVE" });
    },
  },
  {
    name: "remove-fault-first",
    group: "remove",
    proves: "A fault in a removed range, read ahead of its REMOVE, leaves no snapshot bytes there.",
    because:
      "The kernel hands faults out before events. It accepts no copy until the REMOVE is read, " +
      "so whoever fills the page has been told that it is gone.",
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const run = { first: 64, count: 8 };
      const removing = vm.remove([run]);
      await vm.untilUnread();
      const reading = vm.read(pagesOf(run), run.count);
      await vm.untilBlocked(run.count, true);
      handler.thaw();
      await removing;
      // These reads began before madvise(2) returned: either content is right.
      vm.assess(pagesOf(run), await reading, "file or zero", "while its REMOVE was unread");
      await vm.expect(pagesOf(run), "zero", { when: "after its REMOVE" });
    },
  },
  {
    name: "remove-flood",
    group: "remove",
    proves: "A thousand single pages given back one by one, while others fault, change no other.",
    because: `${UNREAD} A balloon gives back single pages, as fast as the guest likes.`,
    play: async (stage) => {
      const vm = await stage.attach();
      const given = stage.image.pages.filter((page) => page < 1400 && page % 4 !== 0);
      const kept = stage.image.pages.filter((page) => page < 1400 && page % 4 === 0);
      const reading = vm.read(kept, 8);
      await vm.remove(singles(given), 2);
      vm.assess(kept, await reading, "file", "during a flood of REMOVEs");
      await vm.expect(given, "zero", { when: "after its REMOVE", threads: 4 });
    },
  },
  {
    name: "remove-race",
    group: "remove",
    proves:
      "Pages touched while they are given back hold old bytes or zeroes, and zeroes in the end.",
    because:
      "A read that began before madvise(2) returned may see either. Once it has returned, " +
      "nothing may bring the old bytes back.",
    play: async (stage) => {
      const vm = await stage.attach();
      const run = { first: 0, count: 384 };
      const pages = pagesOf(run);
      const reading = vm.read(pages, 8);
      await vm.remove(singles(pages), 4);
      vm.assess(pages, await reading, "file or zero", "while it was given back");
      await vm.expect(pages, "zero", { when: "after its REMOVE", threads: 4 });
    },
  },
  {
    name: "remove-balloon",
    group: "remove",
    proves: "A balloon inflates, deflates, the guest writes, and inflates again.",
    because: ZERO_AFTER,
    play: async (stage) => {
      const vm = await stage.attach();
      const pages = pagesOf({ first: 800, count: 96 });
      await vm.expect(pages.slice(0, 48), "file");
      for (let cycle = 0; cycle < 2; cycle++) {
        await vm.remove(singles(pages));
        await vm.write(pages, "zero", 4);
        await vm.expect(pages, "written", { when: "after the guest wrote to it again" });
      }
      await vm.expect([799, 896], "file", { when: "beside the balloon" });
    },
  },
];
