/** A VMM that says whatever a test wants, well-formed or not. See handshake-peer-program.ts. */
import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { PAGE_BYTES } from "./fixtures.ts";
import type { FdKind, PeerAnswer, PeerOrder } from "./handshake-peer-program.ts";

export type { FdKind } from "./handshake-peer-program.ts";

const PROGRAM = join(builtRoot, "test/support/handshake-peer-program.js");
const START_BUDGET_MS = 20_000;
const ANSWER_BUDGET_MS = 10_000;

/** One region as the handshake names it. Tests put anything in its fields. */
export type Mapping = Readonly<Record<string, unknown>>;

export interface PeerOptions {
  readonly pageCount: number;
  readonly pageSizeBytes?: number;
  /** Whom it runs as; such a peer gets a userfaultfd for faults in user mode only. */
  readonly uid?: number;
}

export class HandshakePeer {
  /** Where its guest memory begins. */
  readonly base: number;
  readonly sizeBytes: number;
  readonly pageSizeBytes: number;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  readonly #child: ChildProcess;
  readonly #socket: string;

  private constructor(child: ChildProcess, socket: string, base: number, options: PeerOptions) {
    this.#child = child;
    this.#socket = socket;
    this.base = base;
    this.pageSizeBytes = options.pageSizeBytes ?? PAGE_BYTES;
    this.sizeBytes = options.pageCount * this.pageSizeBytes;
    this.exited = once(child, "exit").then(([code, signal]) => ({ code, signal }));
  }

  /**
   * Starts it with `pageCount` missing pages of guest memory. It connects to `socket` when told.
   */
  static async start(socket: string, options: PeerOptions): Promise<HandshakePeer> {
    const kind = (options.pageSizeBytes ?? PAGE_BYTES) > PAGE_BYTES ? "huge" : "small";
    const args = [String(options.pageCount), kind];
    const identity = options.uid === undefined ? {} : { uid: options.uid, gid: options.uid };
    const child = fork(PROGRAM, args, { serialization: "advanced", cwd: "/", ...identity });
    const first = once(child, "message").then(([message]) => message as PeerAnswer);
    const ended = once(child, "exit").then(() => ({ error: "it ended" }));
    const hello = await within("the peer started", Promise.race([first, ended]), START_BUDGET_MS);
    assert.ok("value" in hello && typeof hello.value === "number", "the peer has no memory");
    return new HandshakePeer(child, socket, hello.value, options);
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** A handshake as Firecracker would send it for this memory. */
  mapping(): Mapping {
    return {
      base_host_virt_addr: this.base,
      size: this.sizeBytes,
      offset: 0,
      page_size: this.pageSizeBytes,
      page_size_kib: this.pageSizeBytes,
    };
  }

  async connect(): Promise<number> {
    return Number(await this.#value({ what: "connect", socket: this.#socket }));
  }

  /** Sends one message. False if the other side hung up before it had all of it. */
  async send(
    connection: number,
    payload: string | Uint8Array,
    fds: readonly FdKind[] = [],
  ): Promise<boolean> {
    const bytes = typeof payload === "string" ? Buffer.from(payload) : payload;
    const answer = await this.#tell({ what: "send", connection, bytes, fds });
    if ("value" in answer) return true;
    assert.match(answer.error, /^(EPIPE|ECONNRESET)$|sendmsg took/);
    return false;
  }

  async close(connection: number): Promise<void> {
    await this.#value({ what: "close", connection });
  }

  /** Connects and sends all at once. Returns the connection, which stays open. */
  async introduce(
    payload: string | Uint8Array | readonly Mapping[] = [this.mapping()],
    fds: readonly FdKind[] = ["guest"],
  ): Promise<number> {
    const isRaw = typeof payload === "string" || payload instanceof Uint8Array;
    const connection = await this.connect();
    await this.send(connection, isRaw ? payload : JSON.stringify(payload), fds);
    return connection;
  }

  /** The bytes of a page as the kernel reads them, or "EFAULT" if it is poisoned. */
  async read(page: number): Promise<Buffer | "EFAULT"> {
    const address = this.base + page * PAGE_BYTES;
    const value = await this.#value({ what: "read", address, lengthBytes: PAGE_BYTES });
    if (typeof value === "object") return Buffer.from(value);
    assert.equal(value, -14, "neither bytes nor EFAULT");
    return "EFAULT";
  }

  /** Starts reading a page that may never come, or may end the peer. */
  startTouching(page: number): void {
    void this.#child.send({ what: "touch", address: this.base + page * PAGE_BYTES });
  }

  /** Waits until a thread of it sleeps in a page fault that nobody has answered. */
  async waitUntilBlocked(): Promise<void> {
    // `total` counts the threads that wait, whether their fault was read or not.
    const isWaiting = () => {
      const folder = `/proc/${this.pid}/fdinfo`;
      const infos = readdirSync(folder).map((fd) => readFileSync(join(folder, fd), "utf8"));
      return infos.some((info) => /^total:\t[1-9]/m.test(info));
    };
    await waitFor("the peer was blocked in a page fault", isWaiting);
  }

  /** Gives pages back, as a balloon does. */
  async remove(first: number, count: number): Promise<void> {
    const address = this.base + first * PAGE_BYTES;
    await this.#value({ what: "remove", address, lengthBytes: count * PAGE_BYTES });
  }

  /** Takes all of its guest memory out of its address space. */
  async unmap(): Promise<void> {
    await this.#value({ what: "unmap", address: this.base, lengthBytes: this.sizeBytes });
  }

  async #value(order: PeerOrder): Promise<number | Uint8Array> {
    const answer = await this.#tell(order);
    if ("error" in answer) throw new Error(`The peer failed to ${order.what}: ${answer.error}`);
    return answer.value;
  }

  async #tell(order: PeerOrder): Promise<PeerAnswer> {
    const answer = once(this.#child, "message").then(([message]) => message as PeerAnswer);
    this.#child.send(order);
    const ended = this.exited.then(({ signal }) => ({ error: `it ended by ${signal}` }));
    return await within(
      `the peer did ${order.what}`,
      Promise.race([answer, ended]),
      ANSWER_BUDGET_MS,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}
