/** What is known of a single page, asked for when somebody looks at it for a moment. */
import type { PageStory } from "../src/daemon/dashboard/protocol.ts";
import type { Access } from "./access.ts";
import { causeWords } from "./cause-words.ts";
import { formatBytes, formatCount, formatHex, formatMicroseconds } from "./formats.ts";

const DEBOUNCE_MS = 140;

/** Asks for the story of the page that was named last. */
export class StoryTeller {
  readonly #access: Access;
  readonly #id: string;
  #asked: AbortController | null = null;
  #timer = 0;

  constructor(access: Access, id: string) {
    this.#access = access;
    this.#id = id;
  }

  /** `tell` is called if nobody asks for another page meanwhile. */
  ask(page: number, tell: (lines: readonly string[]) => void): void {
    this.stop();
    const asked = new AbortController();
    this.#asked = asked;
    this.#timer = window.setTimeout(() => {
      const path = `/v1/sessions/${this.#id}/pages/${page}`;
      this.#access.json<PageStory>(path, asked.signal).then(
        (story) => {
          if (!asked.signal.aborted) tell(storyLines(story));
        },
        () => {
          if (!asked.signal.aborted) tell(["The daemon tells no story of it."]);
        },
      );
    }, DEBOUNCE_MS);
  }

  stop(): void {
    window.clearTimeout(this.#timer);
    this.#asked?.abort();
    this.#asked = null;
  }
}

export function storyLines(story: PageStory): string[] {
  const place = `region ${story.region}, host address ${story.hostAddress}`;
  const lines = [`page ${formatCount(story.page)}: ${story.state}; ${place}`, sourceLine(story)];
  if (story.demandedAfterMs !== null) {
    const order = story.demandOrder === null ? "" : `, ${formatCount(story.demandOrder)} before it`;
    lines.push(
      `demanded ${formatMicroseconds(story.demandedAfterMs * 1000)} after the VM came${order}`,
    );
  }
  if (story.prefault !== null) lines.push(`prefault: ${story.prefault}`);
  if (story.costUs !== null) {
    const cause = story.cause === null ? "" : `, most of it: ${causeWords[story.cause]}`;
    lines.push(`cost ${formatMicroseconds(story.costUs)}${cause}`);
  }
  return lines;
}

function sourceLine({ source, inCache }: PageStory): string {
  if (source.kind === "zero") return "from: zeroes, no bytes in the snapshot";
  const name = source.kind === "chunk" ? `chunk ${source.name.slice(0, 16)}…` : source.name;
  const offset = source.offset === null ? "" : ` + ${formatHex(source.offset)}`;
  const store = source.store === null ? "" : ` of ${source.store}`;
  const size = source.kind === "chunk" ? `, ${formatBytes(source.sizeBytes)}` : "";
  const cached = inCache === null ? "" : inCache ? ", in memory now" : ", not in memory now";
  return `from: ${name}${offset}${store}${size}${cached}`;
}
