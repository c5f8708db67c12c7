/**
 * `serve --track-dirty`: a session file for each VM, and its memory registered for write protection
 * too, from this process: the VMM knows nothing of it. What is written later is recorded by the
 * fault worker (`engine/dirty-tracker.ts`).
 */
import {
  accessSync,
  closeSync,
  constants,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setBit } from "../base/bitmap.ts";
import { FaultlineError } from "../base/errors.ts";
import { formatHex } from "../base/units.ts";
import type { SessionEnd } from "../engine/session.ts";
import type { TrackingSetup } from "../engine/wire.ts";
import { MappedRegion } from "../linux/memory.ts";
import { bootId, processTimes } from "../linux/process.ts";
import { PagePresence } from "../linux/process-memory.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import {
  bitmapBytesOf,
  encodeSessionHeader,
  type ServedIdentity,
} from "../snapshot/session-file.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";

const FILE_MODE = 0o600;

/** One VM's session file, mapped. */
export interface TrackedVm {
  readonly setup: TrackingSetup;
  /** A bit for each page that was written; null: it has ended. Not to be kept. */
  dirtyBits(): Uint8Array | null;
  /** Ends it with the session: the file stays as long as the VM may live. */
  follow(ended: Promise<SessionEnd>): void;
  /** The VM was refused after all. */
  discard(): void;
}

export class DirtyTracking {
  readonly #folder: string;
  readonly #served: ServedIdentity;
  readonly #bootId = bootId();

  /** @throws FaultlineError `bad-option` (the folder), `unsupported` (the kernel) */
  constructor(folder: string, served: ServedIdentity) {
    checkFolder(folder);
    // Anyone may probe in user mode; the feature is the kernel's, not the descriptor's.
    const features = Userfaultfd.supportedFeatures({ via: "syscall", userModeOnly: true });
    if (!features.has("pagefaultFlagWp")) {
      throw new FaultlineError(
        "unsupported",
        "--track-dirty needs write protection by userfaultfd, which Linux has since 5.7 on " +
          "x86-64 and since 6.10 on arm64. Serve without it.",
      );
    }
    this.#folder = folder;
    this.#served = served;
  }

  /**
   * Writes of the VM are tracked from here on.
   * @throws FaultlineError `handshake`, `no-process-access`, `session-file`
   */
  begin(pid: number, regions: RegionMap, uffd: Userfaultfd): TrackedVm {
    const times = processTimes(pid);
    if (times === null) throw new FaultlineError("handshake", `Process ${pid} has ended.`);
    const header = encodeSessionHeader({
      pid,
      startTicks: times.startTicks,
      bootId: this.#bootId,
      regions,
      imageBytes: regions.totalBytes,
      served: this.#served,
    });
    const bitmapBytes = bitmapBytesOf(regions.pageLimit);
    const path = join(this.#folder, `${pid}.session`);
    const draft = `${path}.draft`;
    let mapping: MappedRegion | undefined;
    try {
      mapping = createMapped(draft, header, 2 * bitmapBytes);
      for (const region of regions.regions) {
        registerProtected(uffd, region.baseHostAddress, region.sizeBytes);
      }
      markPresent(pid, regions, new Uint8Array(mapping.view(), header.length, bitmapBytes));
      renameSync(draft, path);
    } catch (error) {
      rmSync(draft, { force: true });
      mapping?.unmap();
      if (error instanceof FaultlineError) throw error;
      const message = `The session file ${path} cannot be written. Is there room on its disk`;
      throw new FaultlineError("session-file", message, { cause: error });
    }
    return new MappedSession(path, mapping, header.length, bitmapBytes);
  }
}

class MappedSession implements TrackedVm {
  readonly setup: TrackingSetup;
  readonly #path: string;
  readonly #mapping: MappedRegion;
  #isMapped = true;

  constructor(path: string, mapping: MappedRegion, headerBytes: number, bitmapBytes: number) {
    this.#path = path;
    this.#mapping = mapping;
    this.setup = { address: mapping.address, headerBytes, bitmapBytes };
  }

  dirtyBits(): Uint8Array | null {
    const { headerBytes, bitmapBytes } = this.setup;
    return this.#isMapped ? new Uint8Array(this.#mapping.view(), headerBytes, bitmapBytes) : null;
  }

  follow(ended: Promise<SessionEnd>): void {
    // By then the fault worker has let go of the mapping.
    void ended.then(({ reason }) => {
      if (reason === "exited" || reason === "gone") this.discard();
      else this.#unmap();
    });
  }

  discard(): void {
    this.#unmap();
    try {
      rmSync(this.#path, { force: true });
    } catch {
      // Whoever finds it later sees that its process is gone.
    }
  }

  #unmap(): void {
    this.#isMapped = false;
    this.#mapping.unmap();
  }
}

function checkFolder(folder: string): void {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    if (statSync(folder).isDirectory()) return;
  } catch (cause) {
    const message = `--track-dirty ${folder} cannot be written to. Create the folder first`;
    throw new FaultlineError("bad-option", message, { cause });
  }
  throw new FaultlineError("bad-option", `--track-dirty ${folder} is no folder. Give another.`);
}

/** All of it is written, not left a hole: a mapped hole without room on the disk is a SIGBUS. */
function createMapped(path: string, header: Buffer, bitmapsBytes: number): MappedRegion {
  rmSync(path, { force: true });
  const fd = openSync(path, "wx+", FILE_MODE);
  try {
    const bytes = Buffer.concat([header, Buffer.alloc(bitmapsBytes)]);
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
    return MappedRegion.shared(fd, bytes.length);
  } finally {
    closeSync(fd);
  }
}

/** In addition to what the VMM has registered it for. */
function registerProtected(uffd: Userfaultfd, start: number, lengthBytes: number): void {
  let canProtect = false;
  let cause: unknown;
  try {
    canProtect = uffd.register(start, lengthBytes, ["missing", "writeProtect"]).has("writeProtect");
  } catch (error) {
    cause = error;
  }
  if (canProtect) return;
  throw new FaultlineError(
    "handshake",
    `The region at ${formatHex(start)} cannot be write-protected, so --track-dirty cannot see ` +
      "what is written there. Shared and huge memory need Linux 5.19 or newer; or serve without it",
    cause === undefined ? undefined : { cause },
  );
}

/**
 * What the VM has already is not protected, and nobody knows what was written to it: it counts as
 * written. A VM that has just mapped its memory has nothing.
 */
function markPresent(pid: number, regions: RegionMap, written: Uint8Array): void {
  using presence = PagePresence.open(pid);
  for (const [index, { baseHostAddress, sizeBytes }] of regions.regions.entries()) {
    presence.forEachPage(baseHostAddress, sizeBytes, (address) => {
      setBit(written, regions.pageAt(index, address));
    });
  }
}
