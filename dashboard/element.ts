/** Makes and changes elements. Text is always text: nothing here parses HTML. */

export type Attributes = Readonly<Record<string, string>>;

export function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function drawing(
  name: string,
  attributes: Attributes = {},
  ...children: readonly Node[]
): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Touches the document only if it says something else. */
export function setText(target: Element, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

export function setAttribute(target: Element, name: string, value: string): void {
  if (target.getAttribute(name) !== value) target.setAttribute(name, value);
}

export function button(label: string, attributes: Attributes, act: () => void): HTMLButtonElement {
  const made = element("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", act);
  return made;
}

/** A part of the page with a heading. */
export function panel(
  title: string,
  attributes: Attributes,
  ...children: readonly (Node | string)[]
): HTMLElement {
  const { class: classes = "", ...others } = attributes;
  const heading = element("h2", {}, title);
  return element(
    "section",
    { class: `panel ${classes}`.trim(), "aria-label": title, ...others },
    heading,
    ...children,
  );
}
