/**
 * What cannot be served, and who says what cannot be understood. A handler may refuse, end, or kill
 * the VM; it may not hang, crash, or make up bytes.
 */
import { truncateSync } from "node:fs";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../../base/units.ts";
import type { RegionEntry } from "../dialects.ts";
import { Finding, WrongBytes } from "../finding.ts";
import type { Scenario } from "../scenario.ts";
import { PROBE_PAGES, type Stage } from "../stage.ts";
import type { HandshakeOptions, Vm } from "../vm.ts";
import { VmDied } from "../vm-process.ts";

const FAIL_LOUDLY =
  "A handler that goes on silently leaves a VM that hangs in its first fault, with nobody told.";
const NEVER_MADE_UP = "Zeroes in place of data that is missing are silent corruption.";

/** A scenario around one handshake that no VMM sends. */
function refuses(
  name: string,
  what: string,
  handshake: (vm: Vm) => HandshakeOptions,
  mayServe: "may serve" | "cannot serve" = "cannot serve",
): Scenario {
  return {
    name,
    group: "failure",
    proves: `After ${what} the handler ends with a failure, or serves the next VM.`,
    because: FAIL_LOUDLY,
    play: async (stage) => {
      const vm = await stage.vm();
      await stage.handler();
      await vm.introduce(stage.socketPath, handshake(vm));
      const probe = mayServe === "may serve" ? { vm, touch: vm.expect([1], "file") } : undefined;
      await stage.expectRefusal(what, probe);
    },
  };
}

const changed = (vm: Vm, change: (entry: RegionEntry) => Partial<RegionEntry>): string =>
  JSON.stringify(vm.entries().map((entry) => ({ ...entry, ...change(entry) })));

export const failureScenarios: readonly Scenario[] = [
  refuses("no-descriptor", "a handshake without a descriptor", () => ({
    attachments: [],
    isClosed: true,
  })),
  refuses("wrong-descriptor", "a handshake whose descriptor is no userfaultfd", () => ({
    attachments: ["memfd"],
  })),
  refuses("no-json", "a handshake that is no JSON", () => ({
    text: "\u0001 hello",
    isClosed: true,
  })),
  refuses("half-handshake", "a handshake that breaks off", () => ({
    text: '[{"base_host_virt_addr":4096,"size":40',
    isClosed: true,
  })),
  {
    name: "empty-connection",
    group: "failure",
    proves:
      "After a connection without a byte the handler ends with a failure, or serves the next.",
    because: FAIL_LOUDLY,
    play: async (stage) => {
      const vm = await stage.vm();
      await stage.handler();
      await vm.disconnect(await vm.connect(stage.socketPath));
      await stage.expectRefusal("a connection without a byte");
    },
  },
  refuses(
    "misaligned-region",
    "a handshake with a region that does not begin at a page",
    (vm) => ({
      text: changed(vm, (entry) => ({ base_host_virt_addr: entry.base_host_virt_addr + 100 })),
    }),
    "may serve",
  ),
  refuses(
    "overlapping-regions",
    "a handshake with regions that overlap and contradict each other",
    (vm) => {
      const [whole] = vm.entries();
      const half = HUGE_PAGE_BYTES;
      const base = whole!.base_host_virt_addr + half;
      return {
        text: JSON.stringify([whole, { ...whole, base_host_virt_addr: base, size: half }]),
      };
    },
    "may serve",
  ),
  refuses(
    "region-beyond-file",
    "a handshake with a region that lies beyond the memory file",
    (vm) => ({ text: changed(vm, (entry) => ({ offset: entry.offset + 64 * HUGE_PAGE_BYTES })) }),
    "may serve",
  ),
  {
    name: "memory-too-short",
    group: "failure",
    proves: "If the VM has more memory than the file, the rest is refused, or the VM killed.",
    because: `The regions' sizes must add up to the file's. ${NEVER_MADE_UP}`,
    play: async (stage) => {
      const { pageCount } = stage.image;
      const vm = await stage.attach({ regionPages: [pageCount + 512] });
      const touch = killedAt(vm, pageCount + 8);
      await stage.expectRefusal("a handshake for more memory than the file holds", { vm, touch });
    },
  },
  {
    name: "memory-truncated",
    group: "failure",
    proves: "If the file is cut while it is served, lost pages come right, or the VM is killed.",
    because: `${NEVER_MADE_UP} ${FAIL_LOUDLY}`,
    play: losesItsFile,
  },
];

/** Resolves if touching that page ends the VM; throws if the page holds anything. */
async function killedAt(vm: Vm, page: number): Promise<void> {
  try {
    const { found } = await vm.read([page]);
    if (found !== "?") {
      throw new WrongBytes(`Page ${page} is beyond the end of the memory file, but was served.`);
    }
  } catch (error) {
    if (error instanceof VmDied) return;
    throw error;
  }
  throw new Finding(`No answer for page ${page}, which is beyond the end of the memory file.`);
}

async function losesItsFile(stage: Stage): Promise<void> {
  const vm = await stage.attach();
  await vm.expect(PROBE_PAGES, "file");
  const handler = await stage.handler();
  truncateSync(stage.image.path, 256 * SMALL_PAGE_BYTES);
  try {
    await vm.expect([1100, 1400], "file", { when: "beyond the new end of the memory file" });
  } catch (error) {
    if (error instanceof VmDied) return;
    // Whoever runs the handler learns of its failure.
    const isLoud = handler.exit !== null && handler.exit.code !== 0;
    if (error instanceof WrongBytes || !isLoud) throw error;
    stage.expectNoCrash(handler);
  }
}
