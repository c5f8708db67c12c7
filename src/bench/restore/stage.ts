/**
 * What restores of one trace are served from: a memory file, the image that was packed of it, in a
 * folder and behind a slow server, and the working sets that a first restore left.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import { HandlerCommand } from "../../kit/handler-command.ts";
import { HandlerProcess } from "../../kit/handler-process.ts";
import { waitFor } from "../../kit/wait.ts";
import { packImage } from "../packed.ts";
import { SlowServer } from "../slow-server.ts";
import type { NamedTrace } from "../traces.ts";
import type { Workspace } from "../workspace.ts";
import { type BackendName, FAR_LATENCY_MS } from "./cases.ts";
import { cacheFlags } from "./contenders.ts";
import { replay } from "./replay.ts";

const IMAGE = "vm";
const LEARNT_DEADLINE_MS = 30_000;

export class RestoreStage {
  readonly trace: NamedTrace;
  readonly memoryPath: string;
  /** The touches as the guests read them. */
  readonly touchesPath: string;
  readonly #workspace: Workspace;
  #store: string | null = null;
  #server: SlowServer | null = null;
  /** By whether of the image: a set belongs to a file or to an index. */
  readonly #sets = new Map<boolean, string>();

  constructor(workspace: Workspace, trace: NamedTrace) {
    this.#workspace = workspace;
    this.trace = trace;
    const { sizeBytes, pages, thinkUs } = trace.trace;
    this.memoryPath = workspace.randomFile(sizeBytes);
    this.touchesPath = workspace.newPath("touches");
    const touches = new Uint32Array(2 * pages.length);
    pages.forEach((page, touch) => {
      touches.set([page, thinkUs[touch]!], 2 * touch);
    });
    writeFileSync(this.touchesPath, touches);
  }

  /** What `--memory` is. */
  async memoryOf(backend: BackendName): Promise<string> {
    if (backend === "file") return this.memoryPath;
    if (backend !== "far") return `dir:${this.#storeFolder()}/${IMAGE}`;
    this.#server ??= await SlowServer.start(this.#storeFolder(), FAR_LATENCY_MS);
    return `${this.#server.location}/${IMAGE}`;
  }

  /**
   * The path of a working set that one restore left: a copy for each server, which goes on
   * learning into it, so that no measurement depends on those before.
   */
  async freshSet(backend: BackendName): Promise<string> {
    const isImage = backend !== "file";
    const learnt = this.#sets.get(isImage) ?? (await this.#learn(isImage ? "cached" : "file"));
    this.#sets.set(isImage, learnt);
    const path = this.#workspace.newPath("set");
    copyFileSync(learnt, path);
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.[Symbol.asyncDispose]();
    if (this.#store !== null) rmSync(this.#store, { recursive: true });
    this.#workspace.remove(this.memoryPath);
  }

  #storeFolder(): string {
    if (this.#store !== null) return this.#store;
    this.#store = this.#workspace.newPath("store");
    mkdirSync(this.#store);
    packImage(this.memoryPath, this.#store, IMAGE);
    return this.#store;
  }

  /** One restore without any help, by a server that only watches. */
  async #learn(backend: "file" | "cached"): Promise<string> {
    const path = this.#workspace.newPath("set");
    const place = {
      trace: this.trace,
      backend,
      pageSizeBytes: SMALL_PAGE_BYTES,
      vms: 1,
      doWrite: false,
    };
    const watching = ["--prefault", "off", "--no-streams", "--working-set", path];
    const command = HandlerCommand.ofServe([...watching, ...cacheFlags(place)]);
    const target = {
      socketPath: this.#workspace.newPath("sock"),
      memoryPath: await this.memoryOf(backend),
    };
    await using handler = await HandlerProcess.start(command, target);
    const { memoryPath, touchesPath } = this;
    await replay(this.#workspace, [handler], {
      ...{ memoryPath, touchesPath, pageSizeBytes: SMALL_PAGE_BYTES },
      ...{ vms: 1, isHeld: false, doWrite: false },
    });
    await waitFor("the working set was written", () => existsSync(path), LEARNT_DEADLINE_MS);
    return path;
  }
}
