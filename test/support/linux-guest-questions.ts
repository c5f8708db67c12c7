/** Questions to the warm service of the Linux guest, with their right answers. */
import type { Random } from "./fixtures.ts";
import { NOTES_PATH, notes } from "./linux-guest-initramfs.ts";
import type { LinuxGuest } from "./linux-guest-machine.ts";
import {
  FILE_COUNT,
  type GuestOracle,
  KEY_LIMIT,
  keyOf,
  NODE_COUNT,
  sha256,
  WORD_COUNT,
} from "./linux-guest-oracle.ts";

export interface GuestQuestion {
  readonly text: string;
  readonly answer: string;
}

/** A chase of so many steps runs over about as many pages; a sum of words over a few. */
const STEPS = 30;
const SUMMED_WORDS = 4096;

/** Of all kinds, mixed, with changes among them: to be asked in this order. */
export function mixedQuestions(
  oracle: GuestOracle,
  random: Random,
  count: number,
): GuestQuestion[] {
  return Array.from({ length: count }, (_, index) => {
    // New processes take a hundred times as long as the rest.
    if (index % 25 === 0) return askHash(oracle, random.below(FILE_COUNT));
    return random.pick(QUICK_KINDS)(oracle, random);
  });
}

/** Each of the pages of the ring and of the array. */
export function questionsAboutAll(oracle: GuestOracle): GuestQuestion[] {
  const files = Array.from({ length: FILE_COUNT }, (_, file) => askHash(oracle, file));
  const ring = { text: `chase 0 ${NODE_COUNT}`, answer: oracle.chase(0, NODE_COUNT) };
  return [
    askSum(oracle, 0, WORD_COUNT),
    ring,
    ...files,
    { text: `hash ${NOTES_PATH}`, answer: sha256(notes) },
  ];
}

export function askSum(oracle: GuestOracle, first: number, end: number): GuestQuestion {
  return { text: `sum ${first} ${end}`, answer: oracle.sum(first, end) };
}

/** What the guest gets wrong, one sentence each. */
export async function wrongAnswers(
  guest: LinuxGuest,
  questions: readonly GuestQuestion[],
): Promise<string[]> {
  const wrong: string[] = [];
  for (const { text, answer } of questions) {
    const given = await guest.ask(text);
    if (given !== answer) wrong.push(`${text}: ${given} instead of ${answer}`);
  }
  return wrong;
}

type Kind = (oracle: GuestOracle, random: Random) => GuestQuestion;

const QUICK_KINDS: readonly Kind[] = [
  (oracle, random) => {
    const number = someKey(random);
    return { text: `get ${keyOf(number)}`, answer: oracle.get(number) };
  },
  (oracle, random) => {
    const [number, value] = [someKey(random), random.next()];
    return { text: `set ${keyOf(number)} ${value}`, answer: oracle.set(number, value) };
  },
  (oracle, random) => {
    const start = random.below(NODE_COUNT);
    return { text: `chase ${start} ${STEPS}`, answer: oracle.chase(start, STEPS) };
  },
  (oracle, random) => {
    const first = random.below(WORD_COUNT - SUMMED_WORDS);
    return askSum(oracle, first, first + random.below(SUMMED_WORDS));
  },
  (oracle, random) => {
    const [file, seed] = [random.below(FILE_COUNT), random.next()];
    return { text: `store ${file} ${seed}`, answer: oracle.store(file, seed) };
  },
];

/** Half of them from a small set, so that what was changed is asked for again. */
function someKey(random: Random): number {
  return 1 + random.below(random.pick([20, KEY_LIMIT]));
}

function askHash(oracle: GuestOracle, file: number): GuestQuestion {
  return { text: `hash /data/file-${file}`, answer: oracle.hash(file) };
}
