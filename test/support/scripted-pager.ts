/**
 * A pager for tests of the supervisor, run as a process: serves no VM, and does what it is told, by
 * JSON lines on the socket `pager-PID.sock` of the folder that is its argument. What it is to do
 * wrong at its start stands in `start.json` there.
 */
import { appendFileSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { FaultlineError } from "../../src/base/errors.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { listenUnix, sendWithFds } from "../../src/linux/socket.ts";
import { Random } from "../../src/sim/random.ts";
import { type KeptEntry, PagerChannel } from "../../src/supervisor/pager-channel.ts";

/** How a pager goes wrong before it serves. */
export interface StartScript {
  readonly exitAtStart?: number;
  readonly exitBeforeServing?: number;
  readonly killedBeforeServing?: boolean;
  readonly hangsAtStart?: boolean;
  /** It knows nothing of its supervisor, nor of its death. */
  readonly outlives?: boolean;
}

/** What it can be told to do. */
export type PagerOrder =
  | { readonly do: "keep"; readonly name: string; readonly contents: readonly string[] }
  | { readonly do: "drop"; readonly name: string }
  | { readonly do: "inherited" }
  | { readonly do: "cycle"; readonly count: number }
  | { readonly do: "listen"; readonly name: string; readonly path: string }
  | { readonly do: "accept"; readonly listener: string; readonly connection: string }
  | { readonly do: "accepted" }
  | { readonly do: "churn"; readonly seed: number; readonly journal: string }
  | { readonly do: "hang" }
  | { readonly do: "exit"; readonly code: number }
  | { readonly do: "lie"; readonly packet: string }
  | { readonly do: "reload" }
  | { readonly do: "fill"; readonly fdsEach: number }
  | { readonly do: "ignoreStop" }
  | { readonly do: "stops" };

/** An entry as a test sees it: its descriptors by what can be read from them. */
export interface SeenEntry {
  readonly name: string;
  readonly contents: readonly string[];
}

const ALIVE_MS = 50;
const CHANNEL_FD = 3;
const folder = process.argv[2]!;
const script = JSON.parse(readFileSync(join(folder, "start.json"), "utf8")) as StartScript;
if (script.exitAtStart !== undefined) process.exit(script.exitAtStart);
if (script.outlives === true) {
  writeFileSync(join(folder, "outlives"), `${process.pid}`);
  hang();
}

const channel = PagerChannel.open()!;
if (script.hangsAtStart === true) hang();
const owned = new Map<string, OwnedFd>();
const accepted: SeenEntry[] = [];
const stops: unknown[] = [];
let ignoresStop = false;
channel.onAccepted = (name, fd) => accepted.push({ name, contents: [contentOf(fd)] });
channel.onStop = (stop) => {
  stops.push(stop);
  if (!ignoresStop) channel.finished();
};
const inherited = (await channel.standBy()).map(seen);
if (script.exitBeforeServing !== undefined) process.exit(script.exitBeforeServing);
if (script.killedBeforeServing === true) process.kill(process.pid, "SIGKILL");

const server = createServer((socket) => {
  socket.on("error", () => undefined);
  createInterface(socket).on("line", async (line) => {
    socket.write(`${JSON.stringify((await obey(JSON.parse(line) as PagerOrder)) ?? null)}\n`);
  });
});
server.listen(join(folder, `pager-${process.pid}.sock`), () => channel.serving());
setInterval(() => channel.alive(), ALIVE_MS);

async function obey(order: PagerOrder): Promise<unknown> {
  switch (order.do) {
    case "keep":
      return keep(order.name, order.contents);
    case "drop":
      return channel.drop(order.name);
    case "inherited":
      return inherited;
    case "cycle":
      for (let index = 0; index < order.count; index++) {
        keep(`cycle.${index % 3}`, ["a", "b"]);
        if (index % 2 === 1) channel.drop(`cycle.${index % 3}`);
      }
      for (let index = 0; index < 3; index++) channel.drop(`cycle.${index}`);
      return null;
    case "listen": {
      const listener = listenUnix(order.path, 16);
      owned.set(order.name, listener);
      return channel.keep(order.name, [listener.fd]);
    }
    case "accept":
      return channel.accept(order.listener, order.connection);
    case "accepted":
      return accepted;
    case "churn":
      return churn(new Random(order.seed), order.journal);
    case "hang":
      return hang();
    case "exit":
      return process.exit(order.code);
    case "lie":
      return sendWithFds(CHANNEL_FD, Buffer.from(order.packet), []);
    case "reload":
      return await channel.reload().catch(refusal);
    case "fill":
      return fill(order.fdsEach);
    case "ignoreStop":
      ignoresStop = true;
      return null;
    case "stops":
      return stops;
  }
}

function keep(name: string, contents: readonly string[]): void {
  const files = contents.map((content) => memfdOf(content));
  channel.keep(
    name,
    files.map(({ fd }) => fd),
  );
  for (const file of files) file.close();
}

/** Until it is refused; tells how many were taken, and why no more. */
function fill(fdsEach: number): { readonly count: number; readonly reason: string } {
  using file = memfdOf("filler");
  for (let count = 0; ; count++) {
    try {
      channel.keep(`filler.${count}`, new Array<number>(fdsEach).fill(file.fd));
    } catch (error) {
      return { count, reason: refusal(error) };
    }
  }
}

/** Keeps and drops for ever, and writes down each step before and after it. */
function churn(random: Random, journal: string): void {
  let sequence = 0;
  const step = (): void => {
    for (let count = 0; count < 20; count++) {
      const name = `churn.${random.below(12)}`;
      const contents = Array.from({ length: random.between(1, 4) }, () => `${sequence++}`);
      const isKeep = random.chance(0.6);
      appendFileSync(journal, `${JSON.stringify({ name, contents: isKeep ? contents : null })}\n`);
      if (isKeep) keep(name, contents);
      else channel.drop(name);
      appendFileSync(journal, '"done"\n');
    }
    setImmediate(step);
  };
  step();
}

function hang(): never {
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

function memfdOf(content: string): OwnedFd {
  const file = createMemfd("entry");
  writeSync(file.fd, content, 0);
  return file;
}

function seen({ name, fds }: KeptEntry): SeenEntry {
  const isListener = name.endsWith("listener");
  const contents = fds.map((fd) => (isListener ? "" : contentOf(fd)));
  for (const fd of fds) fd.close();
  return { name, contents };
}

/** What is in a file, or has come through a connection. */
function contentOf(fd: OwnedFd): string {
  const buffer = Buffer.alloc(256);
  try {
    return buffer.toString("utf8", 0, readSync(fd.fd, buffer, 0, buffer.length, 0));
  } catch {
    return buffer.toString("utf8", 0, readSync(fd.fd, buffer));
  }
}

function refusal(error: unknown): string {
  if (!(error instanceof FaultlineError)) throw error;
  return `${error.code}: ${error.message}`;
}
