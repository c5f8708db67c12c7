/** Refuses what a server cannot do, before it begins: no mode is silently another one. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { DirectoryStore } from "../source/directory-store.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { ServedMemory } from "./served-memory.ts";
import type { ServeOptions } from "./server.ts";

/** @throws FaultlineError `bad-option`, `unsupported` */
export function assertPossible({ onError, trackDirty, prefault }: ServeOptions): void {
  if (onError === "poison") assertPoisonable();
  if (trackDirty === undefined || prefault !== "all") return;
  throw new FaultlineError(
    "bad-option",
    "--prefault all lets a VM go, and --track-dirty has to stay. Use --prefault concurrent.",
  );
}

/** @throws FaultlineError `handshake`: what cannot be had of a VM with KVM Userfault */
export function assertUserfaultPossible({
  onError,
  trackDirty,
}: Pick<ServeOptions, "onError" | "trackDirty">): void {
  const option =
    trackDirty !== undefined ? "--track-dirty" : onError === "poison" ? "--on-error poison" : null;
  if (option === null) return;
  throw new FaultlineError(
    "handshake",
    `This VM has a guest_memfd, which its vCPUs do not reach through the VMM's memory: ${option} ` +
      "would not touch them. Serve it without.",
  );
}

/** @throws FaultlineError `bad-option` */
export function assertLearnable({ prefault }: ServeOptions, { workingSet }: ServedMemory): void {
  if (prefault !== "before-resume" || workingSet !== null) return;
  throw new FaultlineError(
    "bad-option",
    "--prefault before-resume installs what earlier restores needed, and there is no place to " +
      "know that from. Name one: --working-set FILE.",
  );
}

/** @throws FaultlineError `bad-option`: nothing could ever be written there */
export function assertFolder(workingSet: string): void {
  if (existsSync(dirname(workingSet))) return;
  throw new FaultlineError(
    "bad-option",
    `--working-set ${workingSet} has no folder: create ${dirname(workingSet)} first.`,
  );
}

/** @throws FaultlineError `bad-request`: the daemon could not keep copies of chunks there */
export function assertCacheFolder(cacheFolder: string): void {
  try {
    DirectoryStore.open(cacheFolder, { create: true });
  } catch (cause) {
    throw new FaultlineError(
      "bad-request",
      `cacheFolder ${cacheFolder} cannot be used. Name a folder that user ${process.geteuid?.()} ` +
        "may read and write",
      { cause },
    );
  }
}

/** @throws FaultlineError `unsupported` */
export function assertPoisonable(): void {
  // Anyone may probe in user mode; the feature is the kernel's, not the descriptor's.
  if (Userfaultfd.supportedFeatures({ via: "syscall", userModeOnly: true }).has("poison")) return;
  throw new FaultlineError(
    "unsupported",
    "--on-error poison needs UFFDIO_POISON, which Linux has since 6.6. Use --on-error kill.",
  );
}
