/**
 * The list of sessions. Only rows that can be seen are in the document, so a thousand sessions cost
 * no more than thirty; the rest is the height of two empty rows.
 */
import { element, setAttribute, setText } from "./element.ts";
import { formatBytes, formatMicroseconds, formatRate, formatShare } from "./formats.ts";
import { hashOfVm } from "./route.ts";
import {
  firstDirection,
  type ListedSession,
  matches,
  type Order,
  ordered,
  residentShare,
  type SortKey,
} from "./session-order.ts";

const ROW_HEIGHT = 34;
/** Rows beyond the edges, so that nothing is blank while one scrolls. */
const MARGIN_ROWS = 8;

const columns: readonly (readonly [key: SortKey, title: string, isNumber: boolean])[] = [
  ["id", "Session", false],
  ["state", "State", false],
  ["memory", "Memory", false],
  ["size", "Size", true],
  ["resident", "Resident", true],
  ["rate", "Faults/s", true],
  ["p50", "p50", true],
  ["p99", "p99", true],
  ["waited", "Waited", true],
];

const stateMarks = { waiting: "◌", attached: "●", ended: "■" } as const;

export class SessionTable {
  readonly element: HTMLElement;
  readonly #body = element("tbody");
  readonly #above = element("tr", { "aria-hidden": "true", class: "filler" }, element("td"));
  readonly #below = element("tr", { "aria-hidden": "true", class: "filler" }, element("td"));
  readonly #rows: HTMLTableRowElement[] = [];
  readonly #heads = new Map<SortKey, HTMLTableCellElement>();
  readonly #table: HTMLTableElement;
  readonly #open: (id: string) => void;
  #sessions: readonly ListedSession[] = [];
  #shown: ListedSession[] = [];
  #order: Order = { key: "id", isDescending: false };
  #filter = "";
  #chosen: string | null = null;

  constructor(open: (id: string) => void) {
    this.#open = open;
    const heads = element("tr", { "aria-rowindex": "1" });
    for (const [key, title, isNumber] of columns) heads.append(this.#head(key, title, isNumber));
    this.#table = element(
      "table",
      {
        class: "sessions",
        role: "grid",
        tabindex: "0",
        "aria-label": "Sessions: arrow keys choose, Enter opens",
      },
      element("thead", {}, heads),
      this.#body,
    );
    this.element = element("div", { class: "table-scroll" }, this.#table);
    this.element.addEventListener("scroll", () => this.#fill(), { passive: true });
    new ResizeObserver(() => this.#fill()).observe(this.element);
    this.#table.addEventListener("keydown", (event) => this.#onKey(event));
    this.#body.addEventListener("click", (event) => {
      const row = (event.target as Element).closest("tr[data-id]");
      if (row instanceof HTMLTableRowElement) this.#open(row.dataset.id!);
    });
    this.#body.append(this.#above, this.#below);
  }

  /** How many sessions the filter lets through. */
  get shownCount(): number {
    return this.#shown.length;
  }

  show(sessions: readonly ListedSession[]): void {
    this.#sessions = sessions;
    this.#refresh();
  }

  filter(text: string): void {
    this.#filter = text;
    this.element.scrollTop = 0;
    this.#refresh();
  }

  focus(): void {
    this.#table.focus();
  }

  /** For keys that are pressed before anything has the focus. False: it is none of the list's. */
  press(key: string): boolean {
    const isOurs = this.#press(key);
    if (isOurs) this.focus();
    return isOurs;
  }

  #head(key: SortKey, title: string, isNumber: boolean): HTMLTableCellElement {
    const sorter = element("button", { type: "button", class: "sorter" }, title);
    sorter.addEventListener("click", () => {
      const { key: before, isDescending } = this.#order;
      this.#order = { key, isDescending: before === key ? !isDescending : firstDirection(key) };
      this.#refresh();
    });
    const head = element("th", { scope: "col", class: isNumber ? "is-number" : "" }, sorter);
    this.#heads.set(key, head);
    return head;
  }

  #refresh(): void {
    const matching = this.#sessions.filter(({ row }) => matches(row, this.#filter));
    this.#shown = ordered(matching, this.#order);
    for (const [key, head] of this.#heads) {
      const isSorted = key === this.#order.key;
      const direction = this.#order.isDescending ? "descending" : "ascending";
      setAttribute(head, "aria-sort", isSorted ? direction : "none");
    }
    setAttribute(this.#table, "aria-rowcount", String(this.#shown.length + 1));
    this.#fill();
  }

  #fill(): void {
    const { scrollTop, clientHeight } = this.element;
    const count = this.#shown.length;
    const first = Math.max(0, Math.min(count, Math.floor(scrollTop / ROW_HEIGHT)) - MARGIN_ROWS);
    const needed = Math.ceil(clientHeight / ROW_HEIGHT) + 2 * MARGIN_ROWS;
    const last = Math.min(count, first + needed);
    while (this.#rows.length < last - first) this.#addRow();
    while (this.#rows.length > last - first) this.#rows.pop()!.remove();
    for (const [index, row] of this.#rows.entries()) {
      fillRow(row, this.#shown[first + index]!, first + index, this.#chosen);
    }
    this.#above.style.height = `${first * ROW_HEIGHT}px`;
    this.#below.style.height = `${(count - last) * ROW_HEIGHT}px`;
    const isChosenThere = this.#rows.some(({ dataset }) => dataset.id === this.#chosen);
    setAttribute(
      this.#table,
      "aria-activedescendant",
      isChosenThere ? `session-${this.#chosen}` : "",
    );
  }

  #addRow(): void {
    const row = element("tr");
    for (const [key, , isNumber] of columns) {
      const cell = element("td", { class: `of-${key}${isNumber ? " is-number" : ""}` });
      if (key === "id")
        cell.append(element("a", { tabindex: "-1" }), element("span", { class: "trouble" }));
      else if (key === "resident") {
        const bar = element("span", { class: "share", "aria-hidden": "true" }, element("span"));
        cell.append(bar, element("span", { class: "share-text" }));
      } else if (key === "state") cell.append(element("span", { class: "badge" }));
      row.append(cell);
    }
    this.#rows.push(row);
    this.#body.insertBefore(row, this.#below);
  }

  #onKey(event: KeyboardEvent): void {
    if (event.target !== this.#table || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.#press(event.key)) event.preventDefault();
  }

  #press(key: string): boolean {
    const at = this.#shown.findIndex(({ row }) => row.id === this.#chosen);
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_HEIGHT) - 1);
    const last = this.#shown.length - 1;
    const next: Readonly<Record<string, number>> = {
      ArrowDown: at + 1,
      ArrowUp: Math.max(0, at - 1),
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: last,
    };
    if (key === "Enter" && at !== -1) {
      this.#open(this.#shown[at]!.row.id);
      return true;
    }
    const target = next[key];
    if (target === undefined || last < 0) return false;
    this.#choose(Math.max(0, Math.min(last, target)));
    return true;
  }

  #choose(index: number): void {
    this.#chosen = this.#shown[index]!.row.id;
    const top = index * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.element;
    // The head row stays on top of the rows.
    const room = clientHeight - 2 * ROW_HEIGHT;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top > scrollTop + room) this.element.scrollTop = top - room;
    this.#fill();
  }
}

function fillRow(
  element: HTMLTableRowElement,
  { row, faultsPerSecond }: ListedSession,
  index: number,
  chosen: string | null,
): void {
  element.id = `session-${row.id}`;
  element.dataset.id = row.id;
  setAttribute(element, "aria-rowindex", String(index + 2));
  setAttribute(element, "aria-selected", String(row.id === chosen));
  const cells = [...element.cells];
  const [link, trouble] = cells[0]!.children as unknown as [HTMLAnchorElement, HTMLElement];
  setText(link, row.id);
  setAttribute(link, "href", hashOfVm(row.id));
  setText(trouble, row.waitsFor === null ? "" : `⚠ waits: ${row.waitsFor}`);
  setAttribute(trouble, "title", row.waitsFor ?? "");
  const badge = cells[1]!.firstElementChild!;
  setText(badge, `${stateMarks[row.state]} ${row.endReason ?? row.state}`);
  setAttribute(badge, "data-state", row.state);
  setText(cells[2]!, row.memory);
  setAttribute(cells[2]!, "title", row.memory);
  setText(cells[3]!, formatBytes(row.sizeBytes));
  const share = residentShare(row);
  const [bar, text] = cells[4]!.children as unknown as [HTMLElement, HTMLElement];
  (bar.firstElementChild as HTMLElement).style.width = `${(share * 100).toFixed(1)}%`;
  setText(text, formatShare(share));
  const isAttached = row.state !== "waiting";
  setText(cells[5]!, isAttached ? formatRate(faultsPerSecond).replace("/s", "") : "–");
  setText(cells[6]!, isAttached && row.faults > 0 ? formatMicroseconds(row.p50Us) : "–");
  setText(cells[7]!, isAttached && row.faults > 0 ? formatMicroseconds(row.p99Us) : "–");
  setText(cells[8]!, isAttached ? formatMicroseconds(row.waitedUs) : "–");
}
