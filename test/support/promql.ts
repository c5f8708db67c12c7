/**
 * Finds what an expression of PromQL names: series with their matchers, and labels that it groups
 * by. It knows as much of the language as our dashboard and alerts use, and refuses the rest. PURE.
 */
export interface Selector {
  readonly name: string;
  readonly matchers: readonly { readonly label: string; readonly value: string | null }[];
  /** `NAME[5m]`, or just `NAME`. */
  readonly isRange: boolean;
}

export interface Expression {
  readonly selectors: readonly Selector[];
  /** Of `by`, `on` and `ignoring`. */
  readonly groupedBy: readonly string[];
}

const tokens = [
  /("(?:[^"\\]|\\.)*")/,
  /(\$?[a-zA-Z_][a-zA-Z0-9_]*)/,
  /(\d[\d.]*(?:[smhd]|e\d+)?)/,
  /(=~|!=|==|>=|<=|[-+*/(){}[\],=<>])/,
];
const TOKEN = new RegExp(`\\s*(?:${tokens.map(({ source }) => source).join("|")})`, "y");
const FUNCTIONS = new Set(
  "sum count rate increase changes histogram_quantile time label_values".split(" "),
);
const GROUPINGS = new Set(["by", "on", "ignoring"]);
const OPERATORS = new Set(["and", "or", "unless"]);

export function parseExpression(text: string): Expression {
  const tokens = tokensOf(text);
  const selectors: Selector[] = [];
  const groupedBy: string[] = [];
  let at = 0;
  const expect = (token: string): void => {
    if (tokens[at++] !== token) throw new Error(`${text}: ${token} is missing`);
  };
  const list = (): void => {
    expect("(");
    while (tokens[at] !== ")") {
      if (tokens[at] !== ",") groupedBy.push(tokens[at]!);
      at += 1;
    }
    at += 1;
  };
  while (at < tokens.length) {
    const token = tokens[at++]!;
    const isName = /^[a-zA-Z_]/.test(token);
    if (!isName || OPERATORS.has(token)) continue;
    if (GROUPINGS.has(token)) list();
    else if (tokens[at] === "(" || FUNCTIONS.has(token)) {
      if (!FUNCTIONS.has(token)) throw new Error(`${text}: what is ${token}?`);
    } else {
      const [matchers, next] = matchersAt(tokens, at, text);
      at = next;
      const isRange = tokens[at] === "[";
      if (isRange) at = tokens.indexOf("]", at) + 1;
      selectors.push({ name: token, matchers, isRange });
    }
  }
  return { selectors, groupedBy };
}

function matchersAt(
  tokens: readonly string[],
  from: number,
  text: string,
): [Selector["matchers"], number] {
  if (tokens[from] !== "{") return [[], from];
  const end = tokens.indexOf("}", from);
  if (end === -1) throw new Error(`${text}: } is missing`);
  const matchers = [];
  for (let at = from + 1; at < end; at += 4) {
    const [label, operator, value] = tokens.slice(at, at + 3);
    matchers.push({ label: label!, value: operator === "=" ? value!.slice(1, -1) : null });
  }
  return [matchers, end + 1];
}

function tokensOf(text: string): string[] {
  const tokens: string[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const at = TOKEN.lastIndex;
    const found = TOKEN.exec(text);
    if (found === null) throw new Error(`${text}: what is ${text.slice(at, at + 10)}?`);
    tokens.push(found.slice(1).find((each) => each !== undefined)!);
  }
  return tokens;
}
