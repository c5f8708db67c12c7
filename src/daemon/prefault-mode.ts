/** How much of a VM's memory is installed before it asks, and when. */
/**
 * - `off`: every page on demand.
 * - `before-resume`: as fast as it goes, for VMs that are resumed when it is done.
 * - `concurrent`: in small steps, beside a guest that runs.
 * - `all`: so too, and then everything else; the VM needs no handler any more.
 */
export const prefaultModes = ["off", "before-resume", "concurrent", "all"] as const;
export type PrefaultMode = (typeof prefaultModes)[number];
