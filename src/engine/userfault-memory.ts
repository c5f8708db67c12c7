/**
 * What a VM with KVM Userfault hands over besides its userfaultfd, in the main thread: its
 * guest_memfd, its bitmap, the rings of its vCPUs, its second socket. The mappings are ours until
 * the worker has let go of the VM; the descriptors are the worker's.
 */
import { fstatSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { APF_PAGE_END_BYTES, mapApfPage } from "../linux/apf-page.ts";
import { describeFd, type OwnedFd } from "../linux/fd.ts";
import { isSafeToMap, MappedRegion } from "../linux/memory.ts";
import { ApfRing } from "../pager/apf-ring.ts";
import type { ReceivedUserfault } from "../protocol/receive-vm.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { UserfaultSetup } from "./wire.ts";

export interface UserfaultParts extends ReceivedUserfault {
  /** Null: the VMM has connected to none. */
  readonly asyncSocket: OwnedFd | null;
}

const BITS_PER_BYTE = 8;

export class UserfaultMemory {
  readonly #parts: UserfaultParts;
  readonly #bitmap: MappedRegion;
  readonly #ringPages: readonly MappedRegion[];

  private constructor(
    parts: UserfaultParts,
    bitmap: MappedRegion,
    ringPages: readonly MappedRegion[],
  ) {
    this.#parts = parts;
    this.#bitmap = bitmap;
    this.#ringPages = ringPages;
  }

  /**
   * Maps and checks. The descriptors stay the caller's if it throws.
   * @throws FaultlineError `handshake`: memory, bitmap or rings that do not fit the regions
   */
  static open(parts: UserfaultParts, regions: RegionMap): UserfaultMemory {
    const mapped: MappedRegion[] = [];
    try {
      const bitmap = mapBitmap(parts, regions);
      mapped.push(bitmap);
      const ringPages = parts.rings.map(({ vcpu }, index) => {
        if (!isSafeToMap(vcpu.fd, APF_PAGE_END_BYTES)) {
          throw refusal(
            `the descriptor of vCPU ${index} is ${describeFd(vcpu.fd)}, neither a vCPU nor a ` +
              "memfd of four pages that is sealed against shrinking",
          );
        }
        const page = mapApfPage(vcpu.fd);
        mapped.push(page);
        // It looks at the header, and refuses what it does not know.
        new ApfRing(page.view());
        return page;
      });
      return new UserfaultMemory(parts, bitmap, ringPages);
    } catch (error) {
      for (const mapping of mapped) mapping.unmap();
      throw error;
    }
  }

  /** For the worker, which owns the descriptors in it from now on. Once. */
  intoSetup(): UserfaultSetup {
    const { guestMemfd, bitmap, asyncSocket, rings, guestAddresses } = this.#parts;
    bitmap.close();
    for (const { vcpu } of rings) vcpu.close();
    return {
      guestMemfd: guestMemfd.intoRawFd(),
      bitmapAddress: this.#bitmap.address,
      bitmapBytes: this.#bitmap.sizeBytes,
      asyncSocket: asyncSocket?.intoRawFd() ?? null,
      rings: rings.map(({ notify, complete }, vcpu) => ({
        pageAddress: this.#ringPages[vcpu]!.address,
        notify: notify.intoRawFd(),
        complete: complete.intoRawFd(),
      })),
      guestAddresses,
    };
  }

  /** The worker has let go. A vCPU whose page is mapped keeps its VM in the kernel. */
  retire(): void {
    this.#bitmap.unmap();
    for (const page of this.#ringPages) page.unmap();
  }
}

/** By its own size, and not by the memory's: whoever wrote it may have made it longer. */
function mapBitmap(parts: UserfaultParts, regions: RegionMap): MappedRegion {
  const neededBytes = Math.ceil(regions.pageLimit / BITS_PER_BYTE);
  const { size: bitmapBytes } = fstatSync(parts.bitmap.fd);
  if (bitmapBytes < neededBytes || bitmapBytes % 4 !== 0) {
    throw refusal(
      `its bitmap has ${bitmapBytes} bytes, and its memory has ${regions.pageLimit} pages, ` +
        `for which ${neededBytes} are needed`,
    );
  }
  if (!isSafeToMap(parts.bitmap.fd, neededBytes)) {
    throw refusal(
      `its bitmap is ${describeFd(parts.bitmap.fd)}, and no memfd that is sealed against shrinking`,
    );
  }
  const { size: memoryBytes } = fstatSync(parts.guestMemfd.fd);
  if (memoryBytes < regions.pageLimit * SMALL_PAGE_BYTES) {
    throw refusal(
      `its guest_memfd has ${memoryBytes} bytes, and its regions end at ` +
        `${regions.pageLimit * SMALL_PAGE_BYTES}`,
    );
  }
  return MappedRegion.shared(parts.bitmap.fd, bitmapBytes);
}

function refusal(what: string): FaultlineError {
  return new FaultlineError("handshake", `The handshake cannot be served: ${what}.`);
}
