/** What a scenario found wrong with the handler, as a sentence. Anything else is a bug of ours. */
export class Finding extends Error {
  override readonly name = "Finding";
}

/** A page held what it must not: worse than a hang. */
export class WrongBytes extends Finding {}

/** `[7]` → `page 7`, `[7, 8, 9, 20]` → `pages 7 to 9 and 1 more`. */
export function namePages(pages: readonly number[]): string {
  const [first = 0] = pages;
  let runLength = 1;
  while (pages[runLength] === first + runLength) runLength += 1;
  const rest = pages.length - runLength;
  const run = runLength === 1 ? `page ${first}` : `pages ${first} to ${first + runLength - 1}`;
  return rest === 0 ? run : `${run} and ${rest} more`;
}

export function formatSeconds(ms: number): string {
  return `${Number((ms / 1000).toFixed(1))} s`;
}
