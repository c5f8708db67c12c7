/** Who starts, stops and dies, and what the others notice of it. */
import { pagesOf } from "../image.ts";
import type { Scenario } from "../scenario.ts";
import { PROBE_PAGES } from "../stage.ts";
import { diesAtWork, outlivesTermination } from "./deaths.ts";

const SILENT_DEATH =
  "Nothing in a userfaultfd tells that its VM has died: poll(2) stays silent and every copy says " +
  "ESRCH. Only the socket (from v1.12 on) and a pidfd of the peer tell. " +
  "Whoever does not look leaks a descriptor with each VM.";
const ONE_SOCKET = "Nothing in the handshake names the VM: each connection is a VM of its own.";

export const lifeScenarios: readonly Scenario[] = [
  {
    name: "vm-killed-mid-fault",
    group: "life",
    proves: "When a VM is killed with faults unanswered, the handler lets its userfaultfd go.",
    because: SILENT_DEATH,
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const reading = vm.read(PROBE_PAGES, PROBE_PAGES.length).catch(() => undefined);
      await vm.untilBlocked(PROBE_PAGES.length, true);
      await Promise.all([vm.kill(), reading]);
      handler.thaw();
      await stage.expectLetGo("its VM was killed");
    },
  },
  {
    name: "vm-killed-mid-remove",
    group: "life",
    proves: "The same when it was killed inside a madvise whose REMOVE nobody has read.",
    because: SILENT_DEATH,
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const removing = vm.remove([{ first: 8, count: 8 }]).catch(() => undefined);
      await vm.untilUnread();
      await Promise.all([vm.kill(), removing]);
      handler.thaw();
      await stage.expectLetGo("its VM was killed");
    },
  },
  {
    name: "vm-killed-at-work",
    group: "life",
    proves: "The same when it is killed while many of its pages are being served.",
    because: `${SILENT_DEATH} A copy under way may meet the death at any moment.`,
    play: async (stage) => await diesAtWork(stage, "v1.12"),
  },
  {
    name: "vm-killed-socket-closed",
    group: "life",
    proves: "The same for a VM that had closed its socket right after the handshake.",
    because: `${SILENT_DEATH} VMMs up to v1.11 leave only the pidfd.`,
    play: async (stage) => await diesAtWork(stage, "v1.7"),
  },
  {
    name: "vm-exits",
    group: "life",
    proves: "When a VM ends in good order, the handler lets its userfaultfd go.",
    because: SILENT_DEATH,
    play: async (stage) => {
      const vm = await stage.attach();
      await vm.expect(PROBE_PAGES, "file");
      await vm.exit();
      await stage.expectLetGo("its VM ended");
    },
  },
  {
    name: "vm-stopped",
    group: "life",
    proves: "A VM that is stopped with faults unanswered, and goes on later, finds them answered.",
    because:
      "A signal takes the thread out of its fault; when it goes on it faults again. Two threads " +
      "wait for each page then, and the second message finds it present (EEXIST).",
    play: async (stage) => {
      const [vm, handler] = await stage.attachFrozen();
      const pages = [...PROBE_PAGES, ...PROBE_PAGES];
      const reading = vm.read(pages, pages.length);
      await vm.untilBlocked(pages.length, true);
      await vm.freeze();
      vm.thaw();
      // All of them have faulted anew, two for each page, before the handler sees the first.
      await vm.untilBlocked(pages.length, true);
      handler.thaw();
      vm.assess(pages, await reading, "file", "after the VM was stopped");
      await vm.expect([2, 3, 5], "file");
    },
  },
  {
    name: "idle-after-hangup",
    group: "life",
    proves: "A handler sleeps while its VM does nothing, also when the VM has closed its socket.",
    because:
      "The socket of a VMM up to v1.11 stays hung up: whoever keeps polling it never sleeps " +
      "again, and takes a CPU from the guests.",
    play: async (stage) => {
      const vm = await stage.attach({ dialect: "v1.7" });
      await vm.expect(PROBE_PAGES, "file");
      await stage.expectQuiet("while its VM did nothing");
      await vm.expect([2, 3, 5], "file", { when: "after a pause" });
    },
  },
  {
    name: "handler-terminated",
    group: "life",
    proves: "SIGTERM to the handler never makes a page of an attached VM read as zeroes.",
    because:
      "The VMM keeps its own copy of the userfaultfd, so that a dead handler freezes the VM " +
      "instead of corrupting it. A handler that unregisters the memory undoes that.",
    play: outlivesTermination,
  },
  {
    name: "vms-at-once",
    group: "life",
    proves: "Several VMs at one socket, each with its own addresses, are served side by side.",
    because: ONE_SOCKET,
    needsManyVms: true,
    play: async (stage) => {
      const { pageCount } = stage.image;
      const vms = await Promise.all([
        stage.attach(),
        stage.attach({ regionPages: [500, pageCount - 500] }),
        stage.attach({ dialect: "v1.7" }),
      ]);
      await Promise.all(vms.map((vm) => vm.expect(stage.image.pages, "file", { threads: 2 })));
    },
  },
  {
    name: "death-next-door",
    group: "life",
    proves: "When one VM is killed mid-fault, the others are served on.",
    because: ONE_SOCKET,
    needsManyVms: true,
    play: async (stage) => {
      const [other, [victim, handler]] = await Promise.all([stage.attach(), stage.attachFrozen()]);
      const reading = victim.read(PROBE_PAGES, PROBE_PAGES.length).catch(() => undefined);
      await victim.untilBlocked(PROBE_PAGES.length);
      await Promise.all([victim.kill(), reading]);
      handler.thaw();
      await other.expect(stage.image.pages, "file", { threads: 4 });
    },
  },
  {
    name: "vm-after-vm",
    group: "life",
    proves: "After a VM has died, the next one is served from the start.",
    because: `${ONE_SOCKET} What the first one gave back, the second has not.`,
    needsManyVms: true,
    play: async (stage) => {
      const first = await stage.attach();
      await first.expect(PROBE_PAGES, "file");
      await first.remove([{ first: 300, count: 4 }]);
      await first.kill();
      const second = await stage.attach();
      await second.expect([...PROBE_PAGES, 301], "file", { when: "of the second VM" });
    },
  },
  {
    name: "bad-handshake-next-door",
    group: "life",
    proves: "A bad handshake leaves the attached VM served, and the next one too.",
    because: ONE_SOCKET,
    needsManyVms: true,
    play: async (stage) => {
      const [good, bad] = await Promise.all([stage.attach(), stage.vm()]);
      await good.expect([0], "file");
      await bad.introduce(stage.socketPath, { text: "[{}]" });
      await bad.introduce(stage.socketPath, { attachments: [] });
      await good.expect(PROBE_PAGES, "file", { when: "after another VM's bad handshake" });
      const next = await stage.attach();
      await next.expect(PROBE_PAGES, "file", { when: "after another VM's bad handshake" });
    },
  },
  {
    name: "silence-next-door",
    group: "life",
    proves: "Whoever connects and says nothing, or half of it, keeps nobody else waiting.",
    because: ONE_SOCKET,
    needsManyVms: true,
    play: async (stage) => {
      const silent = await stage.vm();
      await stage.handler();
      await silent.connect(stage.socketPath);
      await silent.introduce(stage.socketPath, { text: '[{"base_host_virt_addr":' });
      const vm = await stage.attach();
      await vm.expect(PROBE_PAGES, "file", { when: "while another peer is silent" });
    },
  },
  {
    name: "flood-next-door",
    group: "life",
    proves: "A VM that floods the handler with REMOVEs does not keep another from being served.",
    because: `${ONE_SOCKET} The guest decides how much it gives back, and how fast.`,
    needsManyVms: true,
    play: async (stage) => {
      const [noisy, quiet] = await Promise.all([stage.attach(), stage.attach()]);
      await quiet.expect([0], "file");
      const runs = stage.image.pages.slice(0, 1000).map((page) => ({ first: page, count: 1 }));
      const flooding = noisy.remove(runs, 4);
      const pages = pagesOf({ first: 1, count: 400 });
      await quiet.expect(pages, "file", { when: "beside a flood of REMOVEs" });
      await flooding;
    },
  },
];
