/**
 * Just enough SVG and HTML for pictures and pages that are written as text: elements with their
 * attributes, everything escaped. PURE.
 */

type Attributes = Readonly<Record<string, string | number>>;

/** One element; `content` is elements, already as text. */
export function element(name: string, attributes: Attributes, content = ""): string {
  const words = Object.entries(attributes).map(
    ([key, value]) => ` ${key}="${escapeText(typeof value === "number" ? short(value) : value)}"`,
  );
  return content === ""
    ? `<${name}${words.join("")}/>`
    : `<${name}${words.join("")}>${content}</${name}>`;
}

export function label(
  text: string,
  x: number,
  y: number,
  { anchor = "start", kind = "" }: { readonly anchor?: string; readonly kind?: string } = {},
): string {
  const look = kind === "" ? {} : { class: kind };
  return element("text", { x, y, "text-anchor": anchor, ...look }, escapeText(text));
}

export function line(x1: number, y1: number, x2: number, y2: number, kind: string): string {
  return element("line", { x1, y1, x2, y2, class: kind });
}

export function escapeText(text: string): string {
  const names: Readonly<Record<string, string>> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (sign) => names[sign]!);
}

function short(value: number): string {
  return String(Number(value.toFixed(1)));
}
