/**
 * The browser's types that Playwright's own types name: without them its declarations do not
 * compile. Tests run in Node, and ask the page by expressions and locators.
 */
interface Node {
  readonly nodeType: number;
}
interface HTMLElement extends Node {
  readonly hidden: boolean;
}
interface SVGElement extends Node {
  readonly ownerSVGElement: SVGElement | null;
}
interface HTMLElementTagNameMap {
  readonly canvas: HTMLElement;
}
