/** `faultline top`: the daemon's sessions, live. */
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { Command } from "commander";
import { ExitCode, FaultlineError } from "../base/errors.ts";
import type { ControlClient } from "../daemon/control/client.ts";
import { type ControlFlags, openClient, withControlOptions } from "./control-options.ts";
import { seconds } from "./options.ts";
import { Terminal } from "./terminal.ts";
import { renderTop, type TopState } from "./top-frame.ts";
import { type SortOrder, sortRows, type TopSample, topNumbers } from "./top-numbers.ts";

interface TopFlags extends ControlFlags {
  readonly once: boolean;
  readonly interval: number;
}

const DEFAULT_INTERVAL_S = 1;
/** Where a frame goes that no terminal shows. */
const PLAIN_COLUMNS = 120;
const orderOfKey: Readonly<Record<string, SortOrder>> = {
  f: "faults",
  l: "latency",
  r: "resident",
  n: "name",
};

export function topCommand(): Command {
  const command = new Command("top")
    .description("watch the sessions of the daemon")
    .option("--once", "print one frame, and end; so does an output that is no terminal", false)
    .option(
      "--interval <seconds>",
      `between two looks (default: ${DEFAULT_INTERVAL_S})`,
      seconds("--interval", 0.1, 3600),
      DEFAULT_INTERVAL_S,
    );
  return withControlOptions(command)
    .addHelpText(
      "after",
      "\nKeys: f, l, r, n sort by faults, latency, resident share, name; p pauses; q ends." +
        "\n--json prints an object per look, until it is ended.\n\nExample:\n  faultline top\n",
    )
    .action(async (flags: TopFlags) => {
      const client = openClient(flags);
      if (flags.json) await printObjects(client, flags);
      else if (flags.once || !process.stdout.isTTY) await printFrame(client, flags);
      else await new TopScreen(client, flags.interval * 1000).run();
    });
}

async function look(client: ControlClient): Promise<TopSample> {
  const [host, statistics, sessions] = await Promise.all([
    client.host(),
    client.statistics(),
    client.sessions(),
  ]);
  return { atMs: Date.now(), host, statistics, sessions };
}

/** Two looks, as one alone knows nothing of speeds. */
async function printFrame(client: ControlClient, { interval }: TopFlags): Promise<void> {
  const before = await look(client);
  await delay(interval * 1000);
  const numbers = topNumbers(await look(client), before);
  const state = { numbers, order: "faults", isPaused: false, trouble: null } as const;
  const lines = renderTop(state, { columns: PLAIN_COLUMNS, rows: null }, Date.now());
  process.stdout.write(lines.map(({ text }) => `${text}\n`).join(""));
}

async function printObjects(client: ControlClient, { once, interval }: TopFlags): Promise<void> {
  let before = await look(client);
  do {
    await delay(interval * 1000);
    const now = await look(client);
    const { rows, ...rest } = topNumbers(now, before);
    const sessions = sortRows(rows, "faults");
    process.stdout.write(`${JSON.stringify({ ...rest, sessions })}\n`);
    before = now;
  } while (!once);
}

class TopScreen {
  readonly #client: ControlClient;
  readonly #intervalMs: number;
  readonly #ended = new AbortController();
  #before: TopSample | null = null;
  #state: TopState = { numbers: null, order: "faults", isPaused: false, trouble: null };

  constructor(client: ControlClient, intervalMs: number) {
    this.#client = client;
    this.#intervalMs = intervalMs;
  }

  async run(): Promise<void> {
    // What is wrong from the start is told as of any command: the screen would hide it.
    this.#take(await look(this.#client));
    using terminal = new Terminal();
    const draw = (): void => {
      const { columns, rows } = terminal;
      terminal.draw(renderTop(this.#state, { columns, rows }, Date.now()));
    };
    terminal.onResize = draw;
    terminal.onEnd = () => this.#ended.abort();
    terminal.onKey = (key) => {
      this.#press(key);
      draw();
    };
    await Promise.race([this.#watch(draw), once(this.#ended.signal, "abort")]);
    terminal.close();
    // A daemon that hangs may still owe an answer, for which nobody waits any more.
    process.exit(ExitCode.ok);
  }

  async #watch(draw: () => void): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      draw();
      await delay(this.#intervalMs, undefined, { signal }).catch(() => undefined);
      if (!this.#state.isPaused) await this.#lookAgain();
    }
  }

  /** A daemon that is away may come back. */
  async #lookAgain(): Promise<void> {
    try {
      const sample = await look(this.#client);
      if (!this.#state.isPaused) this.#take(sample);
    } catch (error) {
      if (!(error instanceof FaultlineError)) throw error;
      this.#state = { ...this.#state, trouble: error.message };
    }
  }

  #take(sample: TopSample): void {
    const numbers = topNumbers(sample, this.#before);
    this.#before = sample;
    this.#state = { ...this.#state, numbers, trouble: null };
  }

  #press(key: string): void {
    const order = orderOfKey[key];
    if (order !== undefined) this.#state = { ...this.#state, order };
    else if (key === "p") this.#state = { ...this.#state, isPaused: !this.#state.isPaused };
    else if (key === "q") this.#ended.abort();
  }
}
