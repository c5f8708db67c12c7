/**
 * Splits TypeScript into code and comments, so that the tidy tests look at the right half.
 *
 * PURE. Both halves keep every position and line of the original: what does not belong is blanked
 * with spaces. String contents are blanked in the code too; their quotes stay.
 */

export interface SourceText {
  readonly text: string;
  readonly code: string;
  readonly comments: string;
}

/**
 * After these a slash begins a regular expression; after anything else it divides. A `!` behind a
 * value is TypeScript's assertion, and a value too.
 */
const BEFORE_REGEXP =
  /(?:^|[([{,;:=&|?+\-*%~^<>]|(?<![\w)\]])!|\b(?:return|typeof|case|in|of|do|else|void))$/;

export function parseSource(text: string): SourceText {
  return new Splitter(text).split();
}

class Splitter {
  readonly #text: string;
  readonly #code: string[];
  readonly #comments: string[];
  /** For each `${` that is open: how many braces were opened inside it. */
  readonly #templateDepths: number[] = [];
  #position = 0;

  constructor(text: string) {
    this.#text = text;
    this.#code = [...blank(text)];
    this.#comments = [...blank(text)];
  }

  split(): SourceText {
    while (this.#position < this.#text.length) this.#step();
    return { text: this.#text, code: this.#code.join(""), comments: this.#comments.join("") };
  }

  #step(): void {
    const start = this.#position;
    const here = this.#text[start]!;
    const two = this.#text.slice(start, start + 2);
    if (two === "//") this.#take(this.#comments, this.#find("\n", start));
    else if (two === "/*") this.#take(this.#comments, this.#find("*/", start + 2) + 2);
    else if (here === '"' || here === "'") this.#string(here);
    else if (here === "`") this.#template();
    else if (here === "/" && this.#isRegExp()) this.#regExp();
    else {
      if (here === "{" && this.#templateDepths.length > 0) this.#deepen(1);
      if (here === "}" && this.#templateDepths.length > 0 && this.#deepen(-1) < 0) {
        this.#templateDepths.pop();
        this.#template(); // The rest of the literal, from the closing brace on.
        return;
      }
      this.#take(this.#code, start + 1);
    }
  }

  /** Where `needle` begins, or the end of the text. */
  #find(needle: string, from: number): number {
    const found = this.#text.indexOf(needle, from);
    return found === -1 ? this.#text.length : found;
  }

  /** Copies everything up to `end` to one half. */
  #take(half: string[], end: number): void {
    for (; this.#position < Math.min(end, this.#text.length); this.#position++) {
      half[this.#position] = this.#text[this.#position]!;
    }
  }

  #deepen(by: number): number {
    const last = this.#templateDepths.length - 1;
    this.#templateDepths[last]! += by;
    return this.#templateDepths[last]!;
  }

  /** Steps over the contents up to one of `ends`, takes that one, and stands behind it. */
  #skipTo(ends: readonly string[]): string {
    for (; this.#position < this.#text.length; this.#position++) {
      if (this.#text[this.#position] === "\\") {
        this.#position++;
        continue;
      }
      const end = ends.find((mark) => this.#text.startsWith(mark, this.#position));
      if (end === undefined) continue;
      this.#take(this.#code, this.#position + end.length);
      return end;
    }
    return "";
  }

  #string(quote: string): void {
    this.#take(this.#code, this.#position + 1);
    this.#skipTo([quote]);
  }

  #template(): void {
    this.#take(this.#code, this.#position + 1);
    if (this.#skipTo(["`", "${"]) === "${") this.#templateDepths.push(0);
  }

  #isRegExp(): boolean {
    const before = this.#code.slice(Math.max(0, this.#position - 40), this.#position).join("");
    return BEFORE_REGEXP.test(before.trimEnd());
  }

  #regExp(): void {
    this.#take(this.#code, this.#position + 1);
    while (this.#skipTo(["/", "["]) === "[") this.#skipTo(["]"]);
  }
}

function blank(text: string): string {
  return text.replace(/[^\n]/g, " ");
}

/** The 1-based line of a position. */
export function lineAt(text: string, position: number): number {
  return text.slice(0, position).split("\n").length;
}
