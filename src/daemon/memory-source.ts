/** A memory that is open, whatever it is made of: what its uses share. */
import type { OwnedFd } from "../linux/fd.ts";
import type { MemoryFiles } from "../source/memory-files.ts";
import type { ServedMemory } from "./served-memory.ts";

export interface MemorySource extends Omit<ServedMemory, "supply" | "close"> {
  /** Equal for what is the same memory. */
  readonly key: string;
  /** Who brings its parts; null: they are chunks. */
  readonly files: MemoryFiles | null;
  /** Makes what a next process needs: `memfd` is among `fds`, and the caller's. */
  keep(): { readonly fds: readonly number[]; readonly memfd: OwnedFd };
  close(): Promise<void>;
}
