/**
 * What a handler of VMs with KVM Userfault has to do: Firecracker's protocol for guest_memfd. Asked
 * only by name, because it is another protocol than the rest of the kit speaks.
 */
import type { Scenario } from "../scenario.ts";
import type { Stage } from "../stage.ts";
import { playDyingModel, playModel } from "./vm-model.ts";

const BITS =
  "KVM looks at the bitmap whenever a vCPU comes by. A bit that is clear before the bytes are " +
  "there gives the guest zeroes for good; one that is set with the answer makes it ask again.";
const NO_EXIT =
  "A fault in the ring costs no exit, and no signal either unless the handler has asked for one: " +
  "who goes to sleep without a last look waits for ever.";
const TWO_WAYS =
  "The VMM's own mapping faults by events, vCPUs by requests, and both mean the same pages. " +
  "UFFDIO_COPY says EEXIST for a page that came by the other way, and wakes nobody.";
const STREAM =
  "Both sockets are streams: frames come glued and in pieces. The message before them has no end " +
  "mark, and without descriptors nothing keeps it apart from the first frame.";

/** In the model's words: [what it plays, what that proves, why it is fair]. */
const plays: readonly (readonly [string, string, string])[] = [
  ["sync", "Each request on the first socket is answered, with bytes and bit in place.", BITS],
  ["apf", "The same on the second socket, for many pages of one vCPU at a time.", BITS],
  ["ring", "The same through the rings of four vCPUs, indices wrapping around.", NO_EXIT],
  [
    "burst",
    "A ring that fills at once is served, and what did not fit comes over the second socket.",
    "A full ring makes KVM leave the guest, and the VMM sends what came of it.",
  ],
  [
    "duplicate",
    "A page that is there already is answered once more.",
    "A vCPU that lost a race with an answer asks again, and waits for a reply of its own.",
  ],
  ["host", "Events of the userfaultfd are served, missing and minor, without any vCPU.", TWO_WAYS],
  ["race", "The VMM and its vCPUs touch the same pages at the same time, and all go on.", TWO_WAYS],
  ["mixed", "Four vCPUs and the VMM in all ways at once.", TWO_WAYS],
  ["glued", "A request in one piece with the message before it is not lost.", STREAM],
  ["split", "Messages and frames that come byte by byte are understood.", STREAM],
  [
    "no-apf",
    "A VM that never connects to the second socket is served.",
    "Guests without asynchronous page faults have none; the order of the sockets is the VMM's.",
  ],
];

const life: Scenario = {
  name: "userfault-vm-killed",
  group: "kvm-userfault",
  proves: "When the VM is killed with faults of all kinds under way, the handler lets it go.",
  because:
    "Neither userfaultfd, eventfds nor rings tell that the VM has died; its streams do. Keeping " +
    "the guest_memfd keeps the memory, and keeping a vCPU keeps the VM in the kernel.",
  play: async (stage) => await playDyingModel(stage, "killed"),
};

export const userfaultScenarios: readonly Scenario[] = [
  ...plays.map(([play, proves, because]) => ({
    name: `userfault-${play}`,
    group: "kvm-userfault" as const,
    proves,
    because,
    play: async (stage: Stage) => await playModel(stage, play),
  })),
  life,
];
