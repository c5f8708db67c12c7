/** The page of a vCPU's rings for asynchronous page faults, in this process. */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { MappedRegion } from "./memory.ts";

/** Where the page lies in a vCPU's descriptor: KVM_APF_PAGE_OFFSET, in pages. */
const APF_PAGE_OFFSET = 3;

/** So long a file has to be that stands for a vCPU. */
export const APF_PAGE_END_BYTES = (APF_PAGE_OFFSET + 1) * SMALL_PAGE_BYTES;

/** Maps it; its layout: `pager/apf-ring.ts`. The mapping outlives the descriptor. */
export function mapApfPage(vcpuFd: number): MappedRegion {
  const offsetBytes = APF_PAGE_OFFSET * SMALL_PAGE_BYTES;
  return MappedRegion.shared(vcpuFd, SMALL_PAGE_BYTES, offsetBytes);
}
