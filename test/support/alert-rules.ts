/**
 * Reads packaging/alerts.yml, which is written in a small part of YAML: one group, scalars on one
 * line, texts in double quotes. Whatever else stands there is an error. PURE.
 */
export interface AlertRule {
  readonly name: string;
  readonly expression: string;
  readonly forText: string | null;
  readonly severity: string;
  readonly summary: string;
  readonly description: string;
}

const HEAD = ["groups:", "  - name: faultline", "    rules:"];

export function parseAlerts(yaml: string): AlertRule[] {
  const lines = yaml.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  if (lines.slice(0, 3).join("\n") !== HEAD.join("\n")) throw new Error("alerts.yml: its head");
  const rules: Map<string, string>[] = [];
  for (const line of lines.slice(3)) {
    const [, indent = "", dash, key = "", value = ""] = /^( +)(- )?([a-z]+):(.*)$/.exec(line) ?? [];
    const isFirst = dash !== undefined && indent.length === 6 && key === "alert";
    const isField = dash === undefined && (indent.length === 8 || indent.length === 10);
    if (!isFirst && !isField) throw new Error(`alerts.yml: ${line}`);
    if (isFirst) rules.push(new Map());
    rules.at(-1)!.set(key, scalar(value.trim(), line));
  }
  return rules.map((rule) => {
    const field = (key: string): string => {
      const value = rule.get(key);
      if (value === undefined || value === "") throw new Error(`alerts.yml: no ${key}`);
      return value;
    };
    return {
      name: field("alert"),
      expression: field("expr"),
      forText: rule.get("for") ?? null,
      severity: field("severity"),
      summary: field("summary"),
      description: field("description"),
    };
  });
}

function scalar(text: string, line: string): string {
  if (text.startsWith('"')) return JSON.parse(text) as string;
  // What would mean something else in YAML.
  if (/: | #|^[[{&*!|>'%@`]/.test(text)) throw new Error(`alerts.yml: quote this: ${line}`);
  return text;
}
