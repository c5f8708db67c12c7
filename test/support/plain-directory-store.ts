/** A store in a folder by the obvious means: the near side of a tier under test. */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { FaultlineError } from "../../src/base/errors.ts";
import { checkObjectName } from "../../src/source/object-name.ts";
import type { ObjectStore, StoredObject } from "../../src/source/object-store.ts";

export class PlainDirectoryStore implements ObjectStore {
  readonly location: string;
  readonly path: string;

  constructor(path: string) {
    this.path = path;
    this.location = `dir:${path}`;
  }

  async read(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    return await this.#unlessMissing(name, signal, (path) => readFile(path, { signal }), null);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    return await this.#unlessMissing(
      name,
      signal,
      async (path) => (await stat(path)).isFile(),
      false,
    );
  }

  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#unlessMissing(
      name,
      signal,
      async (path) => {
        const staged = join(this.path, `.staged-${randomUUID()}`);
        await mkdir(dirname(path), { recursive: true });
        await writeFile(staged, bytes);
        await rename(staged, path);
      },
      undefined,
    );
  }

  async *list(prefix: string, signal: AbortSignal): AsyncGenerator<StoredObject> {
    signal.throwIfAborted();
    const entries = await readdir(this.path, { recursive: true, withFileTypes: true });
    for (const entry of entries) {
      const path = join(entry.parentPath, entry.name);
      const name = relative(this.path, path);
      if (!entry.isFile() || entry.name.startsWith(".") || !name.startsWith(prefix)) continue;
      const { size, mtimeMs } = await stat(path);
      yield { name, sizeBytes: size, modifiedMs: mtimeMs };
    }
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    await this.#unlessMissing(name, signal, (path) => rm(path), undefined);
  }

  async close(): Promise<void> {}

  async #unlessMissing<T, U>(
    name: string,
    signal: AbortSignal,
    action: (path: string) => Promise<T>,
    instead: U,
  ): Promise<T | U> {
    signal.throwIfAborted();
    checkObjectName(this.location, name);
    try {
      return await action(join(this.path, name));
    } catch (cause) {
      signal.throwIfAborted();
      const { code = "" } = cause as NodeJS.ErrnoException;
      if (["ENOENT", "ENOTDIR", "EISDIR"].includes(code)) return instead;
      throw new FaultlineError("store-failed", `${name} in ${this.location}`, { cause });
    }
  }
}
