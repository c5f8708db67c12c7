/** How VMs introduce themselves. See dialects.ts. */
import type { DialectName } from "../dialects.ts";
import type { Scenario } from "../scenario.ts";
import { PROBE_PAGES, type Stage } from "../stage.ts";
import type { VmOptions } from "../vm.ts";

const STREAM =
  "The message travels over a stream socket: it has no boundaries, and no length stands before it.";

function playsDialect(
  dialect: DialectName,
  options: VmOptions = {},
): (stage: Stage) => Promise<void> {
  return async (stage) => {
    const vm = await stage.attach({ dialect, ...options });
    await vm.expect(PROBE_PAGES, "file");
    await vm.expect([0, stage.image.pageCount - 1], "file");
  };
}

/** Splits the image into unequal regions. */
function splitInto(count: 2 | 3): (stage: Stage) => Promise<void> {
  return async (stage) => {
    const { pageCount } = stage.image;
    const first = 300;
    const regionPages =
      count === 2 ? [first, pageCount - first] : [first, 500, pageCount - first - 500];
    const vm = await stage.attach({ regionPages });
    const ends = regionPages.flatMap((_, index) => {
      const start = regionPages.slice(0, index).reduce((sum, pages) => sum + pages, 0);
      return [start, start + regionPages[index]! - 1];
    });
    await vm.expect([...ends, ...PROBE_PAGES], "file");
  };
}

/** Traps for parsers that search for words: known names one level deeper, brackets in strings. */
const UNKNOWN_KEYS = {
  x_note: 'a "quoted" ]} and \\',
  x_nested: { offset: 1, size: [null, -1500, []], page_size: 1 },
  x_flag: true,
  x_empty: {},
};

export const handshakeScenarios: readonly Scenario[] = [
  {
    name: "firecracker-1-1",
    group: "handshake",
    proves: "A VM that names no page size and closes its socket at once is served 4 KiB pages.",
    because:
      "Firecracker v1.1 to v1.6 sends base, size and offset only, and closes after it. Without a " +
      "balloon its userfaultfd has no EVENT_REMOVE.",
    play: playsDialect("v1.1", { hasRemove: false }),
  },
  {
    name: "firecracker-1-7",
    group: "handshake",
    proves: "page_size_kib is taken for bytes, which it holds, and a closed socket for no death.",
    because: "Firecracker v1.7 to v1.11 sends 4096 as page_size_kib; no release ever sent KiB.",
    play: playsDialect("v1.7"),
  },
  {
    name: "firecracker-1-12",
    group: "handshake",
    proves: "A VM that names page_size and keeps its socket open is served.",
    because: "Firecracker v1.12 and newer does so; page_size_kib is still sent beside it.",
    play: playsDialect("v1.12"),
  },
  {
    name: "unknown-keys",
    group: "handshake",
    proves: "Keys that the handler does not know, with any value, are skipped.",
    because: "Releases have added keys to the handshake without a version number, and will again.",
    play: async (stage) => {
      const vm = await stage.vm();
      await stage.handler();
      const entries = vm.entries().map((entry) => ({ ...UNKNOWN_KEYS, ...entry }));
      await vm.introduce(stage.socketPath, { text: JSON.stringify(entries) });
      await vm.expect(PROBE_PAGES, "file");
    },
  },
  {
    name: "split-handshake",
    group: "handshake",
    proves: "JSON that comes in two pieces, the descriptor with the first, is put together.",
    because: STREAM,
    play: async (stage) => {
      const vm = await stage.attach({ splitAt: 40 });
      await vm.expect(PROBE_PAGES, "file");
    },
  },
  {
    name: "long-handshake",
    group: "handshake",
    proves: "JSON of more than 4 KiB is read to its end.",
    because: `${STREAM} It grows with the regions and with keys yet to come.`,
    play: async (stage) => {
      const vm = await stage.vm();
      await stage.handler();
      const entries = vm.entries().map((entry) => ({ x_note: "-".repeat(5000), ...entry }));
      await vm.introduce(stage.socketPath, { text: JSON.stringify(entries) });
      await vm.expect(PROBE_PAGES, "file");
    },
  },
  {
    name: "two-regions",
    group: "handshake",
    proves: "Two regions, the second at a lower address, are served from their own offsets.",
    because: "Each region is a mapping of its own, placed by the kernel; x86 has two above 3 GiB.",
    play: splitInto(2),
  },
  {
    name: "three-regions",
    group: "handshake",
    proves: "Three regions of different sizes at unrelated addresses are told apart.",
    because: "Large VMs, and VMs with hotplug memory, have three.",
    play: splitInto(3),
  },
  {
    name: "queued-handshake",
    group: "handshake",
    proves: "A handshake, and faults, that were there before accept(2) are answered.",
    because:
      "connect(2) succeeds while the listener's backlog has room: the VMM waits for nobody, " +
      "sends, and goes on to touch its memory.",
    play: async (stage) => {
      const vm = await stage.vm();
      const handler = await stage.handler();
      await handler.freeze();
      await vm.introduce(stage.socketPath);
      const reading = vm.read(PROBE_PAGES, PROBE_PAGES.length);
      await vm.untilBlocked(PROBE_PAGES.length);
      handler.thaw();
      vm.assess(PROBE_PAGES, await reading, "file");
    },
  },
  {
    name: "queued-and-closed",
    group: "handshake",
    proves: "A handshake whose sender closed the socket before accept(2) is taken all the same.",
    because:
      "VMMs up to v1.11 close at once: data and descriptor can still be read then, and only " +
      "after them comes the end of the stream.",
    play: async (stage) => {
      const vm = await stage.vm();
      const handler = await stage.handler();
      await handler.freeze();
      await vm.introduce(stage.socketPath, { dialect: "v1.7" });
      handler.thaw();
      await vm.expect(PROBE_PAGES, "file");
    },
  },
];
