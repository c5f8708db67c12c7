/**
 * A terminal that is drawn on as a whole: keys come one by one, lines go to places. However the
 * process ends, short of SIGKILL, the terminal is what it was before.
 */
import { writeSync } from "node:fs";

const STDOUT = 1;
/** The second screen, without a cursor, lines cut instead of wrapped; and back. */
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H";
const CLEAR_LINE_END = "\x1b[K";
const CLEAR_REST = "\x1b[J";
const RESET = "\x1b[0m";
const ENDINGS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
/** What Ctrl-C and Ctrl-D are where the terminal makes no signals of keys. */
const END_KEYS = ["\x03", "\x04"];

const styles = { plain: "", head: "\x1b[7m", alarm: "\x1b[1;31m", faint: "\x1b[2m" } as const;

export interface StyledLine {
  readonly text: string;
  readonly tone: keyof typeof styles;
}

export class Terminal {
  /** One key at a time. */
  onKey: (key: string) => void = () => {};
  onResize: () => void = () => {};
  /** Ctrl-C, or nobody is there any more. */
  onEnd: () => void = () => {};
  #isOpen = true;
  readonly #removeListeners: () => void;

  constructor() {
    const onData = (data: Buffer): void => this.#takeKeys(data.toString("latin1"));
    const onClosed = (): void => this.onEnd();
    const onResize = (): void => this.onResize();
    const leave = (): void => this.close();
    const onSignal = (signal: NodeJS.Signals): void => {
      this.close();
      // With nobody listening any more it ends us, as it would have before.
      process.kill(process.pid, signal);
    };
    process.on("exit", leave);
    for (const signal of ENDINGS) process.on(signal, onSignal);
    process.stdout.on("resize", onResize);
    if (process.stdin.isTTY) process.stdin.setRawMode(true);
    process.stdin.on("data", onData);
    process.stdin.on("end", onClosed);
    process.stdin.on("error", onClosed);
    this.#removeListeners = () => {
      process.off("exit", leave);
      for (const signal of ENDINGS) process.off(signal, onSignal);
      process.stdout.off("resize", onResize);
      process.stdin.off("data", onData);
      process.stdin.off("end", onClosed);
      process.stdin.off("error", onClosed);
      process.stdin.pause();
    };
    write(ENTER);
  }

  /** A terminal that does not know its size says 0. */
  get columns(): number {
    return process.stdout.columns || 80;
  }

  get rows(): number {
    return process.stdout.rows || 24;
  }

  draw(lines: readonly StyledLine[]): void {
    if (!this.#isOpen) return;
    const drawn = lines.map(({ text, tone }) => {
      const styled = styles[tone] === "" ? text : `${styles[tone]}${text}${RESET}`;
      return `${styled}${CLEAR_LINE_END}`;
    });
    // The last line has no end: it would scroll.
    write(`${HOME}${drawn.join("\n")}${CLEAR_REST}`);
  }

  /** Twice is as good as once. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#removeListeners();
    write(LEAVE);
    try {
      if (process.stdin.isTTY) process.stdin.setRawMode(false);
    } catch {
      // The terminal is gone.
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #takeKeys(keys: string): void {
    // Arrows and the like are several characters, and nothing here.
    if (keys.startsWith("\x1b")) return;
    for (const key of keys) {
      if (END_KEYS.includes(key)) this.onEnd();
      else this.onKey(key);
    }
  }
}

/** At once: what is buffered would come after the terminal was left. */
function write(text: string): void {
  try {
    writeSync(STDOUT, text);
  } catch {
    // Nobody looks: EIO when the terminal is gone, EAGAIN when it does not read.
  }
}
