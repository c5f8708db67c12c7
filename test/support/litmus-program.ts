/**
 * The handler's party in a test of atomic operations on mapped memory; see test/peer/litmus.c.
 *
 *     node litmus-program.js owners|dekker atomic|plain ROUNDS
 *
 * Descriptor 3 is the memory. Prints JSON: how often it was contradicted, and after which rounds.
 */
import { MappedRegion } from "../../src/linux/memory.ts";

const OWNED = 0;
const FLAG = 16;
const HEAD = 48;
const JS_READY = 64;
const C_READY = 80;
const RESULT = 96;
const LINE = 16;
const OUR_BITS = 0xffff;
const ARMED = 1;

const [what, how, roundsText] = process.argv.slice(2);
const rounds = Number(roundsText);
const region = MappedRegion.shared(3, 4096);
const words = new Uint32Array(region.view());

// What is compared: the very operations of ApfRing and UserfaultBitmap, and what a naive handler
// would write in their place.
const operations = {
  atomic: {
    or: (index: number, bits: number) => void Atomics.or(words, index, bits),
    and: (index: number, bits: number) => void Atomics.and(words, index, bits),
    load: (index: number) => Atomics.load(words, index),
  },
  plain: {
    or: (index: number, bits: number) => {
      words[index]! |= bits;
    },
    and: (index: number, bits: number) => {
      words[index]! &= bits;
    },
    load: (index: number) => words[index]!,
  },
} as const;
const { or, and, load } = operations[how as keyof typeof operations];

function owners(): number {
  let contradicted = 0;
  for (let round = 1; round <= rounds; round++) {
    Atomics.store(words, JS_READY, round);
    while (Atomics.load(words, C_READY) < round);
    for (let turn = 0; turn < 4; turn++) {
      or(OWNED, OUR_BITS);
      if ((Atomics.load(words, OWNED) & OUR_BITS) !== OUR_BITS) contradicted++;
      and(OWNED, ~OUR_BITS);
      if ((Atomics.load(words, OWNED) & OUR_BITS) !== 0) contradicted++;
    }
  }
  return contradicted;
}

function dekker(): number {
  let contradicted = 0;
  let hasSeenHead = true;
  for (let round = 1; round <= rounds + 1; round++) {
    const flag = FLAG + (round % 2) * LINE;
    Atomics.store(words, flag, 0);
    Atomics.store(words, JS_READY, round);
    while (Atomics.load(words, C_READY) < round);
    // The last round's results are both known now.
    const hasSeenFlag = Atomics.load(words, RESULT + ((round + 1) % 2) * LINE) === ARMED;
    if (!hasSeenHead && !hasSeenFlag) contradicted++;
    if (round > rounds) break;
    or(flag, ARMED);
    hasSeenHead = load(HEAD) === round;
  }
  return contradicted;
}

const contradicted = what === "owners" ? owners() : dekker();
process.stdout.write(JSON.stringify({ contradicted, rounds }));
