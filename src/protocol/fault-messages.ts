/**
 * The messages of a VM with KVM Userfault: a vCPU asks for a page, the handler says that it is
 * there. The same on both streams; the direction tells which of them it is.
 *
 *     frame = u32 length, little-endian │ that many bytes of bitcode
 *
 * Both directions are here, for handlers and for who tests them. PURE, and nothing is allocated
 * for a message.
 */
import { BitcodeReader, BitcodeWriter } from "./bitcode.ts";

/** Bits of `flags`, which are KVM's of an exit for a memory fault. */
export const FaultFlag = {
  /** The page's bit in the userfault bitmap was set. Always there. */
  userfault: 0x10,
  /** The guest goes on with something else meanwhile. */
  asyncPageFault: 0x20,
} as const;

/** From the VMM. */
export interface FaultRequest {
  vcpu: number;
  /** Place in the memory file, for requests without `gpa`. Firecracker sends 0. */
  offset: number;
  flags: number;
  /** Guest physical address of the page, or null. */
  gpa: number | null;
}

/** To the VMM, which looks at `vcpu` and, on the second stream, at `gpa`. */
export interface FaultReply {
  vcpu: number | null;
  offset: number;
  sizeBytes: number;
  flags: number;
  gpa: number | null;
  isZero: boolean;
}

export const FRAME_HEADER_BYTES = 4;
/** The longest frame that we write. */
export const MAX_REQUEST_FRAME_BYTES = FRAME_HEADER_BYTES + 33;
export const MAX_REPLY_FRAME_BYTES = FRAME_HEADER_BYTES + 44;

export function newFaultRequest(): FaultRequest {
  return { vcpu: 0, offset: 0, flags: 0, gpa: null };
}

export function newFaultReply(): FaultReply {
  return { vcpu: null, offset: 0, sizeBytes: 0, flags: 0, gpa: null, isZero: false };
}

/** Writes frames into one buffer, for one write(2) of as many as it holds. */
export class FrameWriter {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #fields: BitcodeWriter;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#fields = new BitcodeWriter(bytes);
  }

  /** What was written since `clear()`; valid until the next frame. */
  get frames(): Uint8Array {
    return this.#bytes.subarray(0, this.#fields.position);
  }

  /** False: write what is there first. */
  get hasRoom(): boolean {
    return this.#fields.position + MAX_REPLY_FRAME_BYTES <= this.#bytes.length;
  }

  clear(): void {
    this.#fields.seek(0);
  }

  request({ vcpu, offset, flags, gpa }: FaultRequest): void {
    const start = this.#begin();
    this.#fields.u32(vcpu);
    this.#fields.u64(offset);
    this.#fields.u64(flags);
    this.#option64(gpa);
    this.#end(start);
  }

  reply({ vcpu, offset, sizeBytes, flags, gpa, isZero }: FaultReply): void {
    const start = this.#begin();
    this.#fields.flag(vcpu !== null);
    if (vcpu !== null) this.#fields.u32(vcpu);
    this.#fields.u64(offset);
    this.#fields.u64(sizeBytes);
    this.#fields.u64(flags);
    this.#option64(gpa);
    this.#fields.flag(isZero);
    this.#end(start);
  }

  #begin(): number {
    const start = this.#fields.position;
    this.#fields.seek(start + FRAME_HEADER_BYTES);
    return start;
  }

  #end(start: number): void {
    const lengthBytes = this.#fields.position - start - FRAME_HEADER_BYTES;
    this.#view.setUint32(start, lengthBytes, true);
  }

  #option64(value: number | null): void {
    this.#fields.flag(value !== null);
    if (value !== null) this.#fields.u64(value);
  }
}

const reader = new BitcodeReader();

/** Reads a frame's payload into `request`; false if it is none. */
export function decodeFaultRequest(payload: Uint8Array, request: FaultRequest): boolean {
  reader.reset(payload);
  request.vcpu = reader.u32();
  request.offset = reader.u64();
  request.flags = reader.u64();
  request.gpa = reader.flag() ? reader.u64() : null;
  return reader.isComplete;
}

/** Reads a frame's payload into `reply`; false if it is none. */
export function decodeFaultReply(payload: Uint8Array, reply: FaultReply): boolean {
  reader.reset(payload);
  reply.vcpu = reader.flag() ? reader.u32() : null;
  reply.offset = reader.u64();
  reply.sizeBytes = reader.u64();
  reply.flags = reader.u64();
  reply.gpa = reader.flag() ? reader.u64() : null;
  reply.isZero = reader.flag();
  return reader.isComplete;
}
