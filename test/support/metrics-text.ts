/** Reads Prometheus' text format 0.0.4, and refuses whatever is not in it. PURE. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: Sample[];
}

export interface ParsedMetrics {
  readonly families: ReadonlyMap<string, Family>;
  readonly samples: readonly Sample[];
}

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`);
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;

/** @throws Error the first line that is wrong */
export function parseMetrics(text: string): ParsedMetrics {
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let last = "";
  let help = "";
  if (!text.endsWith("\n")) throw new Error("The last line has no end.");
  for (const line of text.slice(0, -1).split("\n")) {
    const [, keyword, name = "", rest = ""] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
    if (keyword === "HELP") help = rest;
    if (keyword === "TYPE") {
      if (families.has(name)) throw new Error(`${name} comes twice.`);
      families.set(name, { type: rest, help, samples: [] });
      last = name;
    }
    if (keyword !== undefined) continue;
    const sample = parseSample(line);
    const key = line.slice(0, line.lastIndexOf(" "));
    if (seen.has(key)) throw new Error(`${key} comes twice.`);
    seen.add(key);
    familyOf(sample, families.get(last), last).samples.push(sample);
  }
  return { families, samples: [...families.values()].flatMap(({ samples }) => samples) };
}

function familyOf({ name }: Sample, family: Family | undefined, last: string): Family {
  const suffix = name.startsWith(last) ? name.slice(last.length) : "?";
  const allowed = family?.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
  if (family === undefined || !allowed.includes(suffix)) {
    throw new Error(`${name} stands below ${last}.`);
  }
  return family;
}

function parseSample(line: string): Sample {
  const [, name, list = "", digits = ""] = SAMPLE.exec(line) ?? [];
  const value = Number(digits);
  if (name === undefined || digits === "" || !Number.isFinite(value)) {
    throw new Error(`No sample: ${line}`);
  }
  const labels: Record<string, string> = {};
  let end = 0;
  while (end < list.length) {
    LABEL.lastIndex = end;
    const [all, label, escaped] = LABEL.exec(list) ?? [];
    if (all === undefined) throw new Error(`No labels: ${line}`);
    const plain = (_: string, each: string): string => (each === "n" ? "\n" : each);
    labels[label!] = escaped!.replace(/\\(.)/g, plain);
    end += all.length;
  }
  return { name, labels, value };
}
