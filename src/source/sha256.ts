/** The hash that AWS's signer asks for, from Node's crypto. */
import { createHash, createHmac, type Hash, type Hmac } from "node:crypto";

type Bytes = string | ArrayBuffer | ArrayBufferView;

export class Sha256 {
  readonly #hash: Hash | Hmac;

  /** With a secret: an HMAC. */
  constructor(secret?: Bytes) {
    if (secret === undefined) this.#hash = createHash("sha256");
    else this.#hash = createHmac("sha256", asBytes(secret));
  }

  update(bytes: Bytes): void {
    this.#hash.update(asBytes(bytes));
  }

  async digest(): Promise<Uint8Array> {
    return this.#hash.digest();
  }

  reset(): void {
    throw new Error("The signer makes a hash for each use.");
  }
}

function asBytes(value: Bytes): string | Uint8Array {
  if (typeof value === "string") return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}
