/**
 * What a store must be able to do besides, so that unused chunks can be removed while somebody
 * packs: tell by age what may be in the making, and let a packer make old chunks young again. Both
 * happen one after the other, never at the same time.
 */
import type { ObjectStore } from "./object-store.ts";

export interface CollectableStore extends ObjectStore {
  /** Makes objects as young as if they had been written now; returns those that do not exist. */
  refresh(names: readonly string[], signal: AbortSignal): Promise<string[]>;
  /** Removes those that are older; returns the names of what was removed. */
  removeOlder(names: readonly string[], thanMs: number, signal: AbortSignal): Promise<string[]>;
  /** Removes what writers that have died left behind. */
  removeLeftovers(signal: AbortSignal): Promise<void>;
}

export function isCollectable(store: ObjectStore): store is CollectableStore {
  return "refresh" in store && "removeOlder" in store;
}
