/** Sets of pages as bits: page `n` is bit `n % 8` of byte `n / 8`. PURE, and allocates nothing. */

export function hasBit(bits: Uint8Array, index: number): boolean {
  return (bits[Math.floor(index / 8)]! & (1 << (index & 7))) !== 0;
}

export function setBit(bits: Uint8Array, index: number): void {
  const at = Math.floor(index / 8);
  bits[at] = bits[at]! | (1 << (index & 7));
}

/** Sets bits `first` to `end` (exclusive): whole bytes at a time, as floods come. */
export function setBits(bits: Uint8Array, first: number, end: number): void {
  let index = first;
  while (index < end && index % 8 !== 0) setBit(bits, index++);
  const lastWhole = end - (end % 8);
  if (index < lastWhole) {
    bits.fill(0xff, index / 8, lastWhole / 8);
    index = lastWhole;
  }
  while (index < end) setBit(bits, index++);
}

/** The next index from `from` on, below `limit`, at which any of the two sets has a bit; or -1. */
export function nextInEither(a: Uint8Array, b: Uint8Array, from: number, limit: number): number {
  for (let index = from; index < limit; ) {
    const byte = Math.floor(index / 8);
    const rest = (a[byte]! | b[byte]!) >>> (index & 7);
    if (rest === 0) {
      index = (byte + 1) * 8;
      continue;
    }
    const found = index + 31 - Math.clz32(rest & -rest);
    return found < limit ? found : -1;
  }
  return -1;
}
