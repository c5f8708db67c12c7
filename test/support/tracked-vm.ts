/** `serve --track-dirty`, a VM on it that writes, and images of the VM while it is paused. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import type { PackReport } from "../../src/image/pack.ts";
import { waitFor } from "../../src/kit/wait.ts";
import {
  busyOffset,
  decodeSessionHeader,
  type SessionLayout,
} from "../../src/snapshot/session-file.ts";
import { Dirtier } from "./dirtier.ts";
import { PAGE_BYTES } from "./fixtures.ts";
import type { ImageStage } from "./image-stage.ts";
import { ServeProcess } from "./serve-process.ts";

export interface SessionBits extends SessionLayout {
  readonly written: ReadonlySet<number>;
  readonly removed: ReadonlySet<number>;
}

export class TrackedVm {
  readonly serve: ServeProcess;
  readonly vm: Dirtier;
  readonly sessionFile: string;
  readonly #stage: ImageStage;

  private constructor(stage: ImageStage, serve: ServeProcess, vm: Dirtier, sessionFile: string) {
    this.#stage = stage;
    this.serve = serve;
    this.vm = vm;
    this.sessionFile = sessionFile;
  }

  /**
   * @param served what `serve` gets besides its socket: `--memory` and so on
   * @param memoryFile as large as the VM's memory
   */
  static async start(
    stage: ImageStage,
    served: readonly string[],
    memoryFile: string,
    ...options: readonly (string | number)[]
  ): Promise<TrackedVm> {
    const folder = stage.path("sessions");
    mkdirSync(folder, { recursive: true });
    const socket = stage.path("socket");
    const serve = await ServeProcess.start([
      ...served,
      ...["--socket", socket, "--track-dirty", folder],
    ]);
    try {
      const vm = await Dirtier.start(socket, memoryFile, ...options);
      await serve.loggedFor(vm.pid, "Attached a VM");
      return new TrackedVm(stage, serve, vm, `${folder}/${vm.pid}.session`);
    } catch (error) {
      await serve[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What is recorded, when nothing is just being recorded. */
  async bits(): Promise<SessionBits> {
    const bytes = await waitFor("the session file was at rest", () => {
      const now = readFileSync(this.sessionFile);
      return now.readUInt32LE(busyOffset) % 2 === 0 ? now : null;
    });
    const layout = decodeSessionHeader(bytes, bytes.length, this.sessionFile);
    const { headerBytes, bitmapBytes, pageCount } = layout;
    const setOf = (start: number): ReadonlySet<number> => {
      const pages = new Set<number>();
      for (let page = 0; page < pageCount; page++) {
        if ((bytes[start + Math.floor(page / 8)]! & (1 << (page % 8))) !== 0) pages.add(page);
      }
      return pages;
    };
    return { ...layout, written: setOf(headerBytes), removed: setOf(headerBytes + bitmapBytes) };
  }

  /** Packs the paused VM as `name`. */
  pack(name: string, ...flags: readonly string[]): PackReport {
    const what = ["pack", "--from-session", this.sessionFile, "--name", name];
    return this.#stage.json<PackReport>(...what, ...flags);
  }

  /** What the VM itself writes down, while it runs. */
  async dump(): Promise<Buffer> {
    const path = this.#stage.path("dump");
    await this.vm.order(`dump ${path}`);
    return readFileSync(path);
  }

  /** What is in an image of the stage's store. */
  extract(name: string): Buffer {
    const path = this.#stage.path(`${name}.extracted`);
    this.#stage.json("extract", name, path);
    return readFileSync(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm[Symbol.asyncDispose]();
    await this.serve[Symbol.asyncDispose]();
  }
}

/** Compares memories page by page: a buffer's own difference would be unreadable. */
export function assertSameMemory(actual: Buffer, expected: Buffer): void {
  assert.deepEqual(differentPages(actual, expected), []);
}

/** The first few pages that differ. */
export function differentPages(actual: Buffer, expected: Buffer, most = 20): number[] {
  assert.equal(actual.length, expected.length);
  const pages: number[] = [];
  for (let at = 0; at < actual.length && pages.length < most; at += PAGE_BYTES) {
    const isSame = actual.compare(expected, at, at + PAGE_BYTES, at, at + PAGE_BYTES) === 0;
    if (!isSame) pages.push(at / PAGE_BYTES);
  }
  return pages;
}
