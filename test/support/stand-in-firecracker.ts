/**
 * Speaks as much of Firecracker's API as loading a snapshot takes, and then is a VM: its memory is
 * missing, its userfaultfd is with the handler, and it compares every page with the memory file.
 *
 *     node stand-in-firecracker.js --api-sock PATH [--id ID]
 *
 * The state file tells it what to do: `StandInState` as JSON. `STAND_IN_ROOT` is where its root
 * folder would be if it were in a jail. Exit codes: 0 or what the state says; 9: a page was wrong.
 */
import { readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import { parseArgs } from "node:util";
import { MappedRegion } from "../../src/linux/memory.ts";
import { connectUnix, sendWithFds } from "../../src/linux/socket.ts";
import * as sys from "../../src/linux/sys.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

export interface StandInState {
  readonly memory: string;
  /** Refuses to load, with these words. */
  readonly refusal?: string;
  /** What it does when it has read its memory: ends with this code, or goes on living. */
  readonly afterwards: number | "stay";
}

const PAGE = 4096;
const WRONG_PAGE = 9;
const LOOK_EVERY_MS = 100;

const { values } = parseArgs({
  options: { "api-sock": { type: "string" }, id: { type: "string" } },
});
const root = process.env.STAND_IN_ROOT ?? "";

/** It must not outlive a test that fails: a blocked thread would keep an orderly exit waiting. */
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) process.kill(process.pid, "SIGKILL");
}, LOOK_EVERY_MS).unref();

const server = createServer((request, response) => {
  const answer = (status: number, body: object | null): void => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(body === null ? undefined : JSON.stringify(body));
  };
  if (request.method === "GET" && request.url === "/") {
    answer(200, { id: values.id ?? "anonymous-instance", state: "Not started" });
    return;
  }
  if (request.method !== "PUT" || request.url !== "/snapshot/load") {
    answer(400, { fault_message: `Invalid request method and/or path: ${request.url}.` });
    return;
  }
  load(request).then(
    () => answer(204, null),
    (error: Error) => answer(400, { fault_message: error.message }),
  );
});
server.listen(root + values["api-sock"]);

async function load(request: IncomingMessage): Promise<void> {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) text += chunk;
  const { snapshot_path: path, mem_backend: backend, ...rest } = JSON.parse(text);
  if (JSON.stringify(rest) !== '{"resume_vm":true}') throw new Error(`Unknown fields: ${text}`);
  if (backend.backend_type !== "Uffd") throw new Error(`Unknown backend: ${text}`);
  const state = JSON.parse(readFileSync(root + path, "utf8")) as StandInState;
  if (state.refusal !== undefined) throw new Error(state.refusal);
  resume(root + backend.backend_path, state);
}

function resume(socketPath: string, { memory, afterwards }: StandInState): void {
  const sizeBytes = statSync(memory).size;
  const region = MappedRegion.anonymous(sizeBytes);
  // Both stay open as long as the process lives, as Firecracker keeps them.
  const uffd = Userfaultfd.create({ features: ["eventRemove"] });
  const connection = connectUnix(socketPath);
  uffd.register(region.address, sizeBytes, ["missing"]);
  const entry = {
    base_host_virt_addr: region.address,
    size: sizeBytes,
    offset: 0,
    page_size: PAGE,
    page_size_kib: PAGE,
  };
  sendWithFds(connection.fd, Buffer.from(JSON.stringify([entry])), [uffd.fd]);
  void run(region, readFileSync(memory), afterwards);
}

/** In a thread: the event loop answers the API meanwhile. */
async function run(
  region: MappedRegion,
  expected: Buffer,
  afterwards: StandInState["afterwards"],
): Promise<void> {
  const page = new sys.Scratch(PAGE);
  for (let at = 0; at < expected.length; at += PAGE) {
    await sys.background.memcpy(page.bytes, region.address + at, PAGE);
    if (!expected.subarray(at, at + PAGE).equals(page.bytes)) process.exit(WRONG_PAGE);
  }
  if (afterwards === "stay") process.stdout.write("guest: all is there\n");
  else process.exit(afterwards);
}
