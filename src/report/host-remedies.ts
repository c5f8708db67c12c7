/** What is said where a VM waited for the host, or for us. PURE. */
import { formatBytes, formatDuration } from "../base/units.ts";
import type { Remedies } from "./remedies.ts";
import type { RestoreReport } from "./restore-report.ts";

export const hostRemedies = {
  "not-memory": ({ wallUs, waitedUs, counters }) => ({
    headline: "Memory was not the reason: the VM hardly waited for it",
    evidence: [
      `it waited ${formatDuration(waitedUs)} of ${formatDuration(wallUs)}, for ` +
        `${counters.faults ?? 0} faults`,
    ],
    advice: [
      "Look elsewhere: what the VMM did before it connected, the devices, the network, the guest " +
        "itself.",
    ],
  }),
  "eagain-storm": ({ counters, pageSizeBytes }, us) => ({
    headline:
      "The guest gave memory back while it was restored, and the kernel made its faults wait",
    evidence: [
      `installations were put off for ${formatDuration(us)}, ${counters.deferred ?? 0} times ` +
        "(EAGAIN)",
      `${counters.removedPages ?? 0} pages were given back, ` +
        `${formatBytes((counters.removedPages ?? 0) * pageSizeBytes)}`,
    ],
    advice: [
      "Let the balloon rest after a resume: inflate it before the snapshot is taken, or some " +
        "seconds after the restore, and not page by page.",
      "Look for what else calls madvise(MADV_DONTNEED), mremap or munmap on guest memory in the " +
        "VMM: free page reporting, virtio-mem.",
    ],
  }),
  "busy-cpus": ({ host }, us) => ({
    headline: "There was no CPU for the VM or its fault worker: the host is busy",
    evidence: [
      `threads could run and waited ${formatDuration(us)} for a CPU`,
      `the VM's threads ${delay(host.guestRunDelayUs)}, its fault worker ` +
        `${delay(host.workerRunDelayUs)}`,
      `VMs attached: ${host.attachedVms}; CPUs: ${host.cpus}`,
    ],
    advice: [
      host.attachedVms > 1
        ? "Run fewer VMs at once on this host, or give each less CPU: `faultline top` shows them."
        : "Find out what else runs on this host: `top`, `/proc/pressure/cpu`.",
      "Give the daemon its share: CPUWeight= or AllowedCPUs= in its unit, and CPUs of its own " +
        "for restores.",
      'Do not let fault workers spin where CPUs are short: spin "off" (`serve`: --spin off).',
    ],
  }),
  crowded: ({ host, counters }, us) => ({
    headline: "The fault worker was busy with other VMs",
    evidence: [
      `faults lay ${formatDuration(us)} before they were looked at`,
      `VMs attached: ${host.attachedVms}; fault workers: ${host.faultWorkers}`,
      `its turn was cut ${counters.cutTurns ?? 0} times for the sake of others`,
    ],
    advice: [
      "Start more fault workers: workers of the daemon (--workers), if there are CPUs for them.",
      "Begin fewer restores at the same moment.",
    ],
  }),
  "main-thread": ({ host }, us) => ({
    headline: "The pager's main thread was busy, and bytes that were there had to wait for it",
    evidence: [`${formatDuration(us)} passed between the pager's threads`],
    advice: [
      "Give it a CPU of its own. Fault workers go first " +
        `(${host.faultWorkers}, CPUs: ${host.cpus}): lower workers of the daemon (--workers).`,
      "Ask it less often: sessions that are created, metrics, statistics, prefetches.",
    ],
  }),
  "slow-install": (report, us) => ({
    headline: "Installing pages took the time: there were many faults, or memory was slow",
    evidence: [
      `${formatDuration(us)} for ${report.counters.faults ?? 0} faults, p50 ` +
        `${formatDuration(report.latencyUs.p50)}, p99 ${formatDuration(report.latencyUs.p99)}`,
      `pages of ${formatBytes(report.pageSizeBytes)}`,
      `${formatDuration(report.causes.delivery)} of it are an estimate: the kernel's part`,
    ],
    advice: installAdvice(report),
  }),
  ahead: ({ prefault, pageSizeBytes }, us) => ({
    headline: "The VM was held back until its working set was installed",
    evidence: [
      `${formatDuration(us)} for ${prefault?.prefaultedPages ?? 0} pages, ` +
        `${formatBytes((prefault?.prefaultedPages ?? 0) * pageSizeBytes)}`,
    ],
    advice: [
      'Let the guest run meanwhile: "prefault": "concurrent" (`serve`: --prefault concurrent).',
      "Have its bytes in memory before: POST /v1/images/prefetch.",
    ],
  }),
  handshake: (_report, us) => ({
    headline: "It took long from the VMM's connection until its memory was watched",
    evidence: [`the handshake took ${formatDuration(us)}`],
    advice: [
      "See what the VMM does between its connection and its message: with Firecracker they " +
        "follow each other at once.",
      "If many VMs come at the same moment, spread them: handshakes are the main thread's.",
    ],
  }),
  "no-memory": ({ pageSizeBytes }, us) => ({
    headline: "The host had no memory for the VM's pages",
    evidence: [`pages of ${formatBytes(pageSizeBytes)} could not be had for ${formatDuration(us)}`],
    advice:
      pageSizeBytes > 4096
        ? [
            "Enlarge the pool of huge pages: `sysctl vm.nr_hugepages`.",
            "Run fewer VMs of huge pages.",
          ]
        : [
            "Free memory on this host, or raise the VMM's memory limit (memory.max of its cgroup).",
            "Run fewer VMs on this host.",
          ],
  }),
  "lost-bytes": ({ memory, kind }, us) => ({
    headline: "Bytes could not be had, and the VM waited for them",
    evidence: [`it stood still for ${formatDuration(us)}`],
    advice: [
      kind === "image"
        ? `Bring the store back; then check the image: \`faultline image verify ${memory}\`.`
        : `Look for I/O errors of the disk under ${memory}, and whether the file was truncated.`,
      "The log says `A VM waits for a page that cannot be had now`, with the reason.",
    ],
  }),
  "pager-replaced": ({ takeovers }, us) => ({
    headline: "The pager died, or was replaced, under the VM",
    evidence: [`nobody answered for ${formatDuration(us)}`, `takeovers: ${takeovers}`],
    advice: [
      "Find out why: the line `A pager ended` in the log, and the one before it. By SIGKILL: the " +
        "kernel, for want of memory (`dmesg`)?",
      "Do not `faultline daemon reload` while VMs are being restored.",
    ],
  }),
} satisfies Partial<Remedies>;

function installAdvice({ pageSizeBytes, prefault }: RestoreReport): string[] {
  return [
    ...(prefault === null
      ? [
          "Have what restores need installed ahead: an image with a working set, and prefault " +
            '"concurrent" or "before-resume".',
        ]
      : ['Have it installed before the guest runs: "prefault": "before-resume".']),
    ...(pageSizeBytes === 4096
      ? ["Restore into huge pages (Firecracker: huge_pages 2M): 512 times fewer faults."]
      : []),
    "If p50 is far above 20 µs: the host reclaims memory (`/proc/pressure/memory`), or the VM's " +
      "memory is on another NUMA node than the fault worker.",
  ];
}

function delay(us: number | null): string {
  return us === null ? "unknown" : formatDuration(us);
}
