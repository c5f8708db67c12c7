/**
 * Zstandard into and out of memory that the caller owns, by libzstd: the one inside of Node (22.15
 * and newer), else the system's. A context costs a megabyte and some time to create: each thread
 * keeps its own.
 */
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { loadZstd, type ZstdFunctions } from "./sys.ts";

/** The levels of libzstd that make sense for memory: below -7 nothing gets faster. */
export const ZSTD_LEAST_LEVEL = -7;
export const ZSTD_MOST_LEVEL = 19;

/** `ZSTD_cParameter` of zstd.h. */
const ZSTD_c_compressionLevel = 100;
const ZSTD_c_contentSizeFlag = 200;
const ZSTD_c_checksumFlag = 201;

/** `null`: this process. The name is the library's, the same for every version since 2015. */
const LIBRARIES = [null, "libzstd.so.1"] as const;

/** Memory that is not V8's, such as a mapping. */
export interface MemoryArea {
  readonly address: number;
  readonly sizeBytes: number;
}

/** How a frame was decompressed: so many bytes, or why it could not be. */
export type ZstdOutcome = { readonly sizeBytes: number } | { readonly failure: string };

let loaded: ZstdFunctions | undefined;

/**
 * libzstd, loaded once per thread.
 * @throws FaultlineError `unsupported`
 */
export function zstd(libraries: readonly (string | null)[] = LIBRARIES): ZstdFunctions {
  if (loaded !== undefined && libraries === LIBRARIES) return loaded;
  const functions = loadZstd(libraries);
  if (functions === null) {
    throw new FaultlineError(
      "unsupported",
      "Images need Zstandard, but libzstd.so.1 cannot be loaded. Install it (apt-get install " +
        "libzstd1, apk add zstd-libs), or run on Node 22.15 or newer, which brings its own.",
    );
  }
  if (libraries === LIBRARIES) loaded = functions;
  return functions;
}

/** The room that a frame of so many bytes may need. */
export function compressBound(sizeBytes: number): number {
  return zstd().ZSTD_compressBound(sizeBytes);
}

/** Writes whole frames, each with its content's size and checksum. */
export class ZstdCompressor {
  readonly #functions = zstd();
  #context: bigint | null;

  constructor(level: number) {
    assert(level >= ZSTD_LEAST_LEVEL && level <= ZSTD_MOST_LEVEL, `no level of zstd: ${level}`);
    const context = this.#functions.ZSTD_createCCtx();
    if (context === null) throw outOfMemory();
    this.#context = context;
    for (const [parameter, value] of [
      [ZSTD_c_compressionLevel, level],
      [ZSTD_c_contentSizeFlag, 1],
      [ZSTD_c_checksumFlag, 1],
    ] as const) {
      const code = this.#functions.ZSTD_CCtx_setParameter(context, parameter, value);
      assert(this.#functions.ZSTD_isError(code) === 0, `zstd refuses ${parameter} = ${value}`);
    }
  }

  /** Returns the frame's size. `target` has room for `compressBound` of the source. */
  compress(source: Uint8Array, target: Uint8Array): number {
    assert(this.#context !== null, "a closed compressor");
    assert(target.byteLength >= compressBound(source.byteLength), "too little room for a frame");
    // SAFETY: both arrays live until the call returns, and their own lengths bound it.
    const size = this.#functions.ZSTD_compress2(
      this.#context,
      target,
      target.byteLength,
      source,
      source.byteLength,
    );
    // With room enough, only a lack of memory can make it fail.
    if (this.#functions.ZSTD_isError(size) !== 0) throw outOfMemory();
    return Number(size);
  }

  close(): void {
    if (this.#context !== null) this.#functions.ZSTD_freeCCtx(this.#context);
    this.#context = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Reads whole frames, of whatever level and origin. */
export class ZstdDecompressor {
  readonly #functions = zstd();
  #context: bigint | null;

  constructor() {
    this.#context = this.#functions.ZSTD_createDCtx();
    if (this.#context === null) throw outOfMemory();
  }

  /**
   * Decompresses all frames of `source` one behind the other. A frame that does not fit, is cut
   * short or damaged is a failure, and leaves anything at all in `target`. A frame without checksum
   * may be damaged without a failure: whoever needs to know compares a hash.
   */
  decompress(source: Uint8Array, target: Uint8Array | MemoryArea): ZstdOutcome {
    assert(this.#context !== null, "a closed decompressor");
    const isView = ArrayBuffer.isView(target);
    // SAFETY: the caller keeps the area mapped; its size bounds what libzstd writes.
    const size = this.#functions.ZSTD_decompressDCtx(
      this.#context,
      isView ? target : target.address,
      isView ? target.byteLength : target.sizeBytes,
      source,
      source.byteLength,
    );
    if (this.#functions.ZSTD_isError(size) !== 0) {
      return { failure: this.#functions.ZSTD_getErrorName(size) };
    }
    return { sizeBytes: Number(size) };
  }

  close(): void {
    if (this.#context !== null) this.#functions.ZSTD_freeDCtx(this.#context);
    this.#context = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function outOfMemory(): FaultlineError {
  return new FaultlineError(
    "system",
    "libzstd could not allocate memory: free some, or use fewer --jobs.",
  );
}
