/** What is said where a VM waited for bytes to come from somewhere. PURE. */
import { formatBytes, formatDuration } from "../base/units.ts";
import { isInFolder, shareUnplanned, typicalReadMs } from "./blame.ts";
import type { Remedies, Remedy } from "./remedies.ts";
import type { CacheAccount, RestoreReport, StoreAccount } from "./restore-report.ts";

const KEEP_NEAR =
  "Keep chunks on this host's disk once they were read: cacheFolder of the daemon (--cache-dir).";
const LEARN =
  "Let restores be learnt from: recordForS above 0 (`serve`: --record-for), and rights to write " +
  "beside the image.";

export const fetchRemedies = {
  "slow-store": (report, us) => (isInFolder(report) ? slowFolder : slowStore)(report, us),
  "no-working-set": (report, us) => ({
    headline: "Everything was fetched on demand: no working set of this image is known yet",
    evidence: [
      `nothing was installed ahead, and the VM waited ${formatDuration(us)} for what it asked for`,
      `${report.counters.awaitedPages ?? 0} pages had to wait for their bytes`,
      ...report.stores.map(describeStore),
    ],
    advice: missingSetAdvice(report),
  }),
  "wrong-working-set": (report) => ({
    headline: "The working set is another one than the guest needs",
    evidence: wrongSetEvidence(report),
    advice: [
      `Forget it: remove the object ${setName(report)} from its store. The next restores learn ` +
        "anew.",
      "If restores of this image do different things, pack an image for each kind of work.",
      'Until then restore without it: prefault "off" of the session (`serve`: --prefault off).',
    ],
  }),
  "cold-disk": (report, us) => ({
    headline: "The memory file was not in the page cache: it was read from its disk",
    evidence: [
      `the VM waited ${formatDuration(us)} for the disk`,
      `${report.counters.awaitedPages ?? 0} pages had to wait for it`,
    ],
    advice: [
      "Read it before the VM comes: " +
        `\`cat ${[report.memory, ...report.layers].join(" ")} > /dev/null\`.`,
      "Pack it (`faultline image pack`), and restore from the image: it is smaller to read, and " +
        "what restores need is learnt and fetched ahead. `serve` learns with --working-set FILE.",
      "Keep it on a faster disk, or on tmpfs.",
    ],
  }),
  "near-disk": (_report, us) => ({
    headline: "The copies of far chunks on this host were slow to read",
    evidence: [`the VM waited ${formatDuration(us)} for cacheFolder's disk`],
    advice: [
      "Put cacheFolder of the daemon (--cache-dir) on a faster disk.",
      "Keep more in memory: raise cacheMiB of the daemon (--cache-size).",
    ],
  }),
  "cache-too-small": (report, us) => ({
    headline: "The cache is too small: chunks were evicted, and fetched again",
    evidence: [
      `the VM waited ${formatDuration(us)} for what had been there, or for room`,
      ...cacheEvidence(report.cache),
    ],
    advice: [
      "Raise cacheMiB of the daemon (--cache-size), to what the images of this host need at once.",
      ...(isInFolder(report) ? [] : [KEEP_NEAR]),
      "Restore fewer different images at the same time on this host.",
    ],
  }),
  decoding: (report, us) => ({
    headline: "Chunks took long to decompress and check",
    evidence: [
      `the VM waited ${formatDuration(us)} for decoding`,
      `${report.host.cpus} CPUs are there for all of it`,
    ],
    advice: [
      "Fetch before the VM comes, so that it is decoded by then: POST /v1/images/prefetch.",
      "Pack with smaller chunks (`faultline image pack --chunk-size 64K`), and digest sha256: " +
        "less is decoded for a page.",
      "Give the pager more CPUs.",
    ],
  }),
} satisfies Partial<Remedies>;

/** Behind a network. */
function slowStore(report: RestoreReport, us: number): Remedy {
  return {
    headline: `Reads from the store were slow${readTime(report)}`,
    evidence: [
      `the VM waited ${formatDuration(us)} for reads`,
      ...report.stores.map(describeStore),
      ...cacheEvidence(report.cache),
    ],
    advice: [
      "Bring the image closer: `faultline image pull` it into a folder of this host, and restore " +
        "from there.",
      KEEP_NEAR,
      ...fetchAdvice(report),
    ],
  };
}

/** It is on this host already. */
function slowFolder(report: RestoreReport, us: number): Remedy {
  return {
    headline: `Reads from the image's folder were slow${readTime(report)}`,
    evidence: [
      `the VM waited ${formatDuration(us)} for reads from the disk of this host`,
      ...cacheEvidence(report.cache),
    ],
    advice: [
      "Keep the image on a faster disk, or on tmpfs.",
      ...fetchAdvice(report),
      "Keep more in memory between restores: raise cacheMiB of the daemon (--cache-size).",
    ],
  };
}

function fetchAdvice(report: RestoreReport): string[] {
  return [
    'Fetch before the VM comes: POST /v1/images/prefetch {"memory": ' +
      `${JSON.stringify(report.memory)}}.`,
    ...(report.prefault === null ? missingSetAdvice(report).slice(0, 1) : []),
  ];
}

function readTime(report: RestoreReport): string {
  const readMs = typicalReadMs(report);
  return readMs === null ? "" : `: ${formatDuration(readMs * 1000)} each`;
}

function describeStore(store: StoreAccount): string {
  const { location, reads, retries, timeouts, failures, hedges, readMs } = store;
  const counted = Object.entries({ retries, timeouts, failures, hedges });
  const troubles = counted
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name}: ${count}`);
  const times = `p50 ${ms(readMs.p50)}, p99 ${ms(readMs.p99)}`;
  return [`${location}: ${reads} reads, ${times}`, ...troubles].join(", ");
}

function cacheEvidence(cache: CacheAccount | null): string[] {
  if (cache === null) return [];
  const { loads, again, evictions, usedBytes, sizeBytes, fetchedBytes } = cache;
  return [
    `the cache: ${loads} loads, ${again} of them again, ${evictions} evictions, ` +
      `${formatBytes(fetchedBytes)} fetched`,
    `${formatBytes(usedBytes)} of its ${formatBytes(sizeBytes)} in use`,
  ];
}

function missingSetAdvice({ learning, takeovers }: RestoreReport): string[] {
  // Only the first pager of a VM installs ahead and records: what it was told to do is not known.
  if (takeovers > 0) return [];
  const before = 'Prefer "prefault": "before-resume" for the shortest time from resume to answer.';
  if (learning.mode === "off") {
    return ['Prefault is off: set "prefault" to "concurrent" (`serve`: --prefault).', before];
  }
  if (!learning.isRecorded) return [LEARN, before];
  return [
    "Restore it once more: this restore was recorded, and the next one has its working set.",
    "After packing a new version, give `faultline image pack` its --parent: it begins with that " +
      "set.",
  ];
}

function wrongSetEvidence(report: RestoreReport): string[] {
  const { prefault } = report;
  if (prefault === null) return [];
  const { demandedPages, unplannedPages, prefaultedPages, plannedPages, wastedPages } = prefault;
  const share = percent(shareUnplanned(report));
  return [
    `${unplannedPages} of ${demandedPages} demanded pages (${share}) were not in it`,
    wastedPages === null
      ? `${prefaultedPages} of its ${plannedPages} pages were installed`
      : `${prefaultedPages} of its ${plannedPages} pages were installed, ${wastedPages} of them ` +
        "for nothing",
    ...(prefault.state === "cancelled" ? ["it was given up while the VM was restored"] : []),
  ];
}

/** Of an image beside it; a memory file has it where --working-set says. */
function setName({ kind, memory }: RestoreReport): string {
  return kind === "image" ? `${memory}.workingset` : "that --working-set names";
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

function ms(milliseconds: number): string {
  return formatDuration(milliseconds * 1000);
}
