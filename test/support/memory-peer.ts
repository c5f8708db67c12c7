/** A child process whose memory this process serves. See memory-peer-program.ts. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { waitFor, within } from "../../src/kit/wait.ts";
import { acceptUnix, listenUnix, receiveWithFds } from "../../src/linux/socket.ts";
import type { UffdFeature } from "../../src/uffd/features.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import type { PeerGreeting, PeerOptions } from "./memory-peer-program.ts";
import { PAGE } from "./stage.ts";

export class MemoryPeer {
  readonly process: ChildProcessWithoutNullStreams;
  readonly uffd: Userfaultfd;
  readonly address: number;
  readonly sizeBytes: number;
  readonly #lines: AsyncIterator<string>;

  private constructor(
    child: ChildProcessWithoutNullStreams,
    uffd: Userfaultfd,
    greeting: PeerGreeting,
  ) {
    this.process = child;
    this.uffd = uffd;
    this.address = greeting.address;
    this.sizeBytes = greeting.sizeBytes;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  static async start(
    options: { features?: readonly UffdFeature[]; keep?: boolean } = {},
  ): Promise<MemoryPeer> {
    const socket = `@faultline-test-${randomUUID()}`;
    const peerOptions: PeerOptions = {
      socket,
      sizeBytes: 16 * PAGE,
      features: options.features ?? [],
      keep: options.keep ?? false,
    };
    using listener = listenUnix(socket, 1);
    const program = new URL("./memory-peer-program.js", import.meta.url).pathname;
    const child = spawn(process.execPath, [program, JSON.stringify(peerOptions)]);
    child.stderr.pipe(process.stderr);
    using connection = await waitFor("the peer connected", () => acceptUnix(listener.fd), 10_000);
    const payload = Buffer.alloc(4096);
    const { byteCount, fds } = await waitFor("the peer sent its userfaultfd", () =>
      receiveWithFds(connection.fd, payload),
    );
    const greeting = JSON.parse(payload.toString("utf8", 0, byteCount)) as PeerGreeting;
    return new MemoryPeer(child, Userfaultfd.fromFd(fds[0]!), greeting);
  }

  /** Begins a command; its answer comes as a line. */
  say(command: string): void {
    this.process.stdin.write(`${command}\n`);
  }

  /** The next line that the peer printed. */
  async answer(): Promise<string> {
    const line = await within("the peer answered", this.#lines.next());
    return line.value as string;
  }

  /** How it ended: an exit code or the name of a signal. */
  async exited(): Promise<number | string> {
    const { exitCode, signalCode } = this.process;
    if (exitCode !== null || signalCode !== null) return signalCode ?? exitCode!;
    const [code, signal] = await within("the peer ended", once(this.process, "exit"));
    return (signal as string | null) ?? (code as number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.uffd.close();
    this.process.kill("SIGKILL");
    await this.exited();
  }
}
