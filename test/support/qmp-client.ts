/** QEMU's control socket: a JSON object per line, commands answered in order, events between. */
import { setTimeout as delay } from "node:timers/promises";
import type { LineChannel } from "./line-channel.ts";

const ANSWER_BUDGET_MS = 20_000;
const MIGRATION_BUDGET_MS = 60_000;
const POLL_MS = 10;

interface QmpMessage {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

export class QmpClient {
  readonly #channel: LineChannel;

  constructor(channel: LineChannel) {
    this.#channel = channel;
  }

  /** Takes QEMU's greeting; before that it obeys no command. */
  async negotiate(): Promise<void> {
    await this.#channel.next("QEMU greeted", ANSWER_BUDGET_MS);
    await this.execute("qmp_capabilities");
  }

  async execute(
    command: string,
    options: Readonly<Record<string, unknown>> = {},
  ): Promise<unknown> {
    await this.#channel.send(JSON.stringify({ execute: command, arguments: options }));
    for (;;) {
      const line = await this.#channel.next(`QEMU answered ${command}`, ANSWER_BUDGET_MS);
      const message = JSON.parse(line) as QmpMessage;
      if (message.error !== undefined) throw new Error(`QEMU: ${command}: ${message.error.desc}`);
      if (message.return !== undefined) return message.return;
    }
  }

  /** Guest memory itself stays where it is, in its file: only the state of the devices moves. */
  async ignoreSharedMemory(): Promise<void> {
    const capabilities = [{ capability: "x-ignore-shared", state: true }];
    await this.execute("migrate-set-capabilities", { capabilities });
  }

  async untilMigrated(): Promise<void> {
    await this.#until("the migration was completed", MIGRATION_BUDGET_MS, async () => {
      const info = (await this.execute("query-migrate")) as { readonly status?: string };
      if (info.status === "failed") throw new Error("QEMU could not save or load its state");
      return info.status === "completed";
    });
  }

  /** Leaves the guest `sizeBytes` of memory, and waits until its driver has done its part. */
  async balloonTo(sizeBytes: number, budgetMs: number): Promise<void> {
    await this.execute("balloon", { value: sizeBytes });
    await this.#until(`the balloon left ${sizeBytes} bytes`, budgetMs, async () => {
      const { actual } = (await this.execute("query-balloon")) as { readonly actual: number };
      return actual === sizeBytes;
    });
  }

  /** Four words of guest memory, as the host finds them. */
  async readWords(physicalAddress: number): Promise<number[]> {
    const command = `xp /4xw ${physicalAddress}`;
    const text = await this.execute("human-monitor-command", { "command-line": command });
    const words = /^[0-9a-f]+:((?: 0x[0-9a-f]{8}){4})\s*$/.exec(String(text))?.[1];
    if (words === undefined) throw new Error(`QEMU: ${command}: ${text}`);
    return words.trim().split(" ").map(Number);
  }

  /** Each look is a command to a busy process: not more often than it is worth. */
  async #until(what: string, budgetMs: number, condition: () => Promise<boolean>): Promise<void> {
    const deadlineMs = performance.now() + budgetMs;
    while (!(await condition())) {
      if (performance.now() > deadlineMs) {
        throw new Error(`Waited ${budgetMs} ms in vain until ${what}.`);
      }
      await delay(POLL_MS);
    }
  }
}
