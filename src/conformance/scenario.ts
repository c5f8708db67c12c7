/** What a scenario is. The scenarios themselves: `scenarios/`. */
import type { Stage } from "./stage.ts";

export const groups = [
  "handshake",
  "serving",
  "remove",
  "hotplug",
  "huge-pages",
  "life",
  "failure",
  "kvm-userfault",
] as const;
export type Group = (typeof groups)[number];

export interface Scenario {
  /** Stable: command lines and reports name it. */
  readonly name: string;
  readonly group: Group;
  /** One sentence: what a handler that passes does. */
  readonly proves: string;
  /** Why that may be asked of any handler: the protocol, or the kernel. */
  readonly because: string;
  /** Asked only of handlers that serve many VMs at one socket. */
  readonly needsManyVms?: boolean;
  readonly needsHugePages?: boolean;
  /** The memory file has a region for memory that was not plugged yet. */
  readonly hasHotplug?: boolean;
  /** Throws a `Finding` if the handler fails it. */
  readonly play: (stage: Stage) => Promise<void>;
}
