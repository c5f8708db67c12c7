/** Buffers that all sessions of one worker share: zeroes, and pages put together from layers. */
import { readSync } from "node:fs";
import { runAt, runEnd } from "../base/owner-runs.ts";
import { HUGE_PAGE_BYTES } from "../base/units.ts";
import { MappedRegion } from "../linux/memory.ts";
import type { MappedLayers } from "../source/memory-files.ts";

export class PageBuffers {
  // Never written, so the kernel backs all of it with its one zero page.
  readonly #zeroes = MappedRegion.anonymous(HUGE_PAGE_BYTES);
  #assembly: { readonly region: MappedRegion; readonly bytes: Uint8Array } | null = null;

  /** Zeroes for hugetlb, which knows no UFFDIO_ZEROPAGE; 2 MiB of them. */
  get zeroAddress(): number {
    return this.#zeroes.address;
  }

  /**
   * Puts `lengthBytes` of the image together from several layers; null if a file has become too
   * short, or its disk fails. Reads instead of copying from the mappings: touching a truncated
   * mapping is a SIGBUS for the whole process, while the kernel's own copy only fails.
   */
  assemble(layers: MappedLayers, offset: number, lengthBytes: number): number | null {
    this.#assembly ??= openAssembly();
    const { region, bytes } = this.#assembly;
    const { runs } = layers;
    const limit = offset + lengthBytes;
    for (let from = offset, run = runAt(runs, offset); from < limit; run++) {
      const to = Math.min(runEnd(runs, run), limit);
      const owner = runs.owners[run]!;
      const target = bytes.subarray(from - offset, to - offset);
      if (owner < 0) target.fill(0);
      else if (!readFully(layers.fds[owner]!, target, from)) return null;
      from = to;
    }
    return region.address;
  }

  close(): void {
    this.#zeroes.unmap();
    this.#assembly?.region.unmap();
    this.#assembly = null;
  }
}

function openAssembly(): { region: MappedRegion; bytes: Uint8Array } {
  const region = MappedRegion.anonymous(HUGE_PAGE_BYTES);
  return { region, bytes: new Uint8Array(region.view()) };
}

function readFully(fd: number, target: Uint8Array, position: number): boolean {
  let done = 0;
  try {
    while (done < target.length) {
      const count = readSync(fd, target, done, target.length - done, position + done);
      if (count === 0) return false;
      done += count;
    }
    return true;
  } catch {
    return false; // EIO and the like: as from a mapping, where the kernel's copy says EFAULT.
  }
}
