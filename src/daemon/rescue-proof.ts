/**
 * Which of several ways to see a VM's memory is right, told by the pages that it has already: what
 * the guest has not written since is byte for byte the image's. It also finds out a wrong memory
 * file of the right size, before any of its bytes reach the guest.
 */
import { FaultlineError } from "../base/errors.ts";
import { formatHex, GIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { imageBytesOf, UNREADABLE } from "../engine/image-bytes.ts";
import { PageBuffers } from "../engine/page-buffers.ts";
import { monotonicUs } from "../linux/clock.ts";
import { memcpy } from "../linux/sys.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { PageSample } from "./rescue-pages.ts";
import type { ServedMemory } from "./served-memory.ts";

/** A region of which so many pages differ, and none is the same, is not that part of the image. */
const ENOUGH_SAMPLES = 16;
/** A part that is evicted again before it is looked at this often is not had. */
const MOST_TRIES = 8;
/** Below this, memory is one region with every VMM: above it, x86-64 has a hole for devices. */
const SURELY_ONE_REGION_BYTES = 3 * GIB;

/** What speaks for one way to see the memory. */
export interface Proof {
  readonly regions: RegionMap;
  /** Of each region: pages looked at, and of these, pages that are as in the image. */
  readonly samples: readonly number[];
  readonly matches: readonly number[];
}

/** Compares what is there with the image, for each candidate. */
export async function proofsOf(
  candidates: readonly RegionMap[],
  samples: readonly PageSample[],
  memory: ServedMemory,
): Promise<Proof[]> {
  const reader = new ImageReader(memory);
  const proofs: Proof[] = [];
  try {
    for (const regions of candidates) {
      const [seen, same] = [regions.regions.map(() => 0), regions.regions.map(() => 0)];
      for (const { address, bytes } of samples) {
        const region = regions.regionAt(address);
        if (region < 0) continue;
        const { baseHostAddress, imageOffset } = regions.regions[region]!;
        seen[region]! += 1;
        if (await reader.isSame(imageOffset + address - baseHostAddress, bytes)) same[region]! += 1;
      }
      proofs.push({ regions, samples: seen, matches: same });
    }
  } finally {
    reader.close();
  }
  return proofs;
}

/**
 * The candidate to believe in. PURE.
 * @throws FaultlineError `rescue-refused`: none, or several
 */
export function believe(proofs: readonly Proof[]): Proof {
  const possible = proofs.filter((proof) => !isContradicted(proof));
  const best = possible.reduce<Proof | null>(
    (most, proof) => (most === null || total(proof.matches) > total(most.matches) ? proof : most),
    null,
  );
  if (best === null) throw contradicted(proofs);
  if (proofs.length === 1 && best.regions.totalBytes <= SURELY_ONE_REGION_BYTES) return best;
  if (best.matches.every((count) => count > 0)) return best;
  // A region without pages of its own may lie anywhere, but if all orders but one are out. Where an
  // area may be cut in two, there are more ways than were tried.
  const areAllOrders = proofs.every(({ matches }) => matches.length === best.matches.length);
  if (proofs.length > 1 && possible.length === 1 && areAllOrders) return best;
  throw new FaultlineError(
    "rescue-refused",
    `The VM's memory can be regions in ${proofs.length} ways, and too few of its pages are there ` +
      `to tell which is right. State every region: ${describe(best.regions)} is one way.`,
  );
}

/**
 * Makes sure that what an operator has stated is not plainly wrong. PURE.
 * @throws FaultlineError `rescue-refused`
 */
export function assertNotContradicted(proof: Proof): void {
  if (isContradicted(proof)) throw contradicted([proof]);
}

/** `12 of 64`: for people. */
export function describeProof({ samples, matches }: Proof): string {
  return `${total(matches)} of ${total(samples)}`;
}

function isContradicted({ samples, matches }: Proof): boolean {
  return samples.some((count, region) => count >= ENOUGH_SAMPLES && matches[region] === 0);
}

function contradicted(proofs: readonly Proof[]): FaultlineError {
  const [first] = proofs;
  return new FaultlineError(
    "rescue-refused",
    `Not one of ${total(first?.samples ?? [])} pages that the VM has is as in the memory file` +
      `${proofs.length > 1 ? ", in whatever order its memory is seen" : ""}. It is the file of ` +
      "another VM, or of another state of it, or the regions are others: give the right --memory " +
      "and --layer, or --region for each region, or --unproven if the guest has written all that " +
      "it has.",
  );
}

function describe(regions: RegionMap): string {
  return regions.regions
    .map(({ baseHostAddress, sizeBytes, imageOffset }) =>
      ["--region ", [baseHostAddress, sizeBytes, imageOffset].map(formatHex).join(":")].join(""),
    )
    .join(" ");
}

function total(counts: readonly number[]): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Single pages of the image, brought from wherever they are. */
class ImageReader {
  readonly #memory: ServedMemory;
  readonly #buffers = new PageBuffers();
  readonly #page = Buffer.alloc(SMALL_PAGE_BYTES);
  readonly #needed = new Set<number>();
  readonly #bytes;

  constructor(memory: ServedMemory) {
    this.#memory = memory;
    this.#bytes = imageBytesOf(memory.mapped, this.#buffers, (part) => this.#needed.add(part));
  }

  /** False also where the bytes cannot be had. */
  async isSame(offset: number, bytes: Uint8Array): Promise<boolean> {
    const held: number[] = [];
    try {
      for (let tries = 0; tries < MOST_TRIES; tries++) {
        this.#needed.clear();
        this.#bytes.nowSeconds = Math.floor(monotonicUs() / 1e6);
        const address = this.#bytes.assemble(offset, SMALL_PAGE_BYTES);
        if (address === UNREADABLE) return false;
        if (this.#needed.size === 0) {
          // SAFETY: the assembly's own memory, at least a page of it.
          memcpy(this.#page, address, SMALL_PAGE_BYTES);
          this.#bytes.release();
          return this.#page.equals(bytes);
        }
        for (const part of this.#needed) {
          await this.#memory.supply.demand(part, true);
          held.push(part);
        }
      }
      return false;
    } finally {
      for (const part of held) this.#memory.supply.release(part);
    }
  }

  close(): void {
    this.#buffers.close();
  }
}
