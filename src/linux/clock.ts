/** CLOCK_MONOTONIC without allocation: performance.now() and hrtime allocate on the hot path. */
import { CLOCK_MONOTONIC } from "./abi-posix.ts";
import * as sys from "./sys.ts";

const time = new sys.Scratch(16);
const words = time.words;
const address = time.address;

/** Microseconds since some fixed point; the same clock in every thread and process. */
export function monotonicUs(): number {
  sys.clock_gettime(CLOCK_MONOTONIC, address);
  return words[0]! * 1e6 + words[2]! / 1e3;
}
