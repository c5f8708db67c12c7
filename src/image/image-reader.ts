/** Reads ranges of an image, verified: what compares images, one range after the other. */
import { FaultlineError } from "../base/errors.ts";
import { chunkObjectName } from "../snapshot/chunk-id.ts";
import { ChunkDecoder, ZeroChunks } from "../source/chunk-codec.ts";
import type { StoredImage } from "../source/stored-image.ts";

export class ImageReader {
  readonly image: StoredImage;
  readonly #zeroes: ZeroChunks;
  readonly #decoder = new ChunkDecoder();
  /** Ranges come in order: the chunk of the last one is often that of the next. */
  #current = -1;
  #bytes = Buffer.alloc(0);

  constructor(image: StoredImage) {
    this.image = image;
    this.#zeroes = new ZeroChunks(image.index);
  }

  /** @throws FaultlineError `image-corrupt` */
  async read(target: Buffer, offset: number, signal: AbortSignal): Promise<void> {
    const { index } = this.image;
    const end = offset + target.length;
    for (let chunk = index.chunkAt(offset); chunk < index.chunkCount; chunk++) {
      const chunkStart = index.start(chunk);
      if (chunkStart >= end) break;
      const from = Math.max(offset, chunkStart);
      const to = Math.min(end, index.end(chunk));
      if (this.#zeroes.has(chunk)) {
        target.fill(0, from - offset, to - offset);
        continue;
      }
      if (chunk !== this.#current) await this.#load(chunk, signal);
      this.#bytes.copy(target, from - offset, from - chunkStart, to - chunkStart);
    }
  }

  async #load(chunk: number, signal: AbortSignal): Promise<void> {
    const { store, index, name } = this.image;
    const id = index.id(chunk);
    this.#current = -1;
    const objectName = chunkObjectName(id);
    if (this.#bytes.length !== index.size(chunk)) this.#bytes = Buffer.alloc(index.size(chunk));
    const failureOf = (stored: Uint8Array | null): string | null =>
      stored === null ? "is missing" : this.#decoder.decode(stored, this.#bytes, id, index.digest);
    let failure = failureOf(await store.read(objectName, signal));
    if (failure !== null && store.refetch !== undefined) {
      failure = failureOf(await store.refetch(objectName, signal));
    }
    if (failure !== null) {
      throw new FaultlineError(
        "image-corrupt",
        `Chunk ${id} of ${name} ${failure}. \`faultline image verify\` lists every damaged chunk.`,
      );
    }
    this.#current = chunk;
  }

  [Symbol.dispose](): void {
    this.#decoder[Symbol.dispose]();
  }
}
