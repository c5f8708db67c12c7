/**
 * A small page-fault handler that is right, for any number of VMs, and wrong in one way if asked:
 * what each scenario of the kit is for. It shares no code with `protocol/`, `pager/` and `engine/`.
 *
 *     node dist/test/conformance/planted-handler.js SOCKET MEMORY [MISTAKE]
 */
import { existsSync, fstatSync, openSync, readSync } from "node:fs";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { describeFd, type OwnedFd } from "../../src/linux/fd.ts";
import { openPidfd } from "../../src/linux/process.ts";
import { acceptUnix, listenUnix, peerCredentials, receiveWithFds } from "../../src/linux/socket.ts";
import { type ReadWatch, Scratch, watchReadable } from "../../src/linux/sys.ts";
import { DRAIN_CAPACITY, decodeEvent, EventBatch } from "../../src/uffd/events.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import type { Mistake } from "./mistakes.ts";

interface Region {
  readonly base_host_virt_addr: number;
  readonly size: number;
  readonly offset: number;
  readonly page_size?: number;
  readonly page_size_kib?: number;
}

/** What a page that faulted is to hold. */
interface Fault {
  readonly address: number;
  /** Decided when the fault was read, which is a mistake. */
  readonly isZero: boolean | null;
}

const [socketPath = "", memoryPath = "", mistake = "none"] = process.argv.slice(2);
const makes = (which: Mistake): boolean => mistake === which;

const KNOWN_KEYS = ["base_host_virt_addr", "size", "offset", "page_size_kib"];
const RETRY_MS = 1;
const BATCH_PAGES = 8;

const file = openSync(memoryPath, "r");
const fileBytes = fstatSync(file).size;
const buffer = new Scratch(HUGE_PAGE_BYTES);
const sessions = new Set<Session>();
let isDeaf = false;
let firstRegions: readonly Region[] | null = null;
let removingSession: Session | null = null;

class Session {
  readonly #uffd: Userfaultfd;
  readonly #regions: readonly Region[];
  readonly #pageBytes: number;
  readonly #pid: number;
  readonly #removed = new Set<number>();
  readonly #watches: ReadWatch[] = [];
  readonly #closing: OwnedFd[] = [];
  #faults: Fault[] = [];
  #isOver = false;

  constructor(connection: OwnedFd, regions: readonly Region[], uffd: Userfaultfd) {
    this.#uffd = uffd;
    this.#regions = regions;
    this.#pageBytes = pageBytesOf(regions[0]!);
    this.#pid = peerCredentials(connection.fd).pid;
    this.#closing.push(connection);
    sessions.add(this);
    if (makes("drops-early-faults")) this.#uffd.drain(new EventBatch());
    this.#watch(this.#uffd.fd, () => this.#turn());
    this.#followDeath(connection);
  }

  unregister(): void {
    for (const { base_host_virt_addr: start, size } of this.#regions) {
      this.#uffd.unregister(start, size);
    }
  }

  #followDeath(connection: OwnedFd): void {
    if (makes("ignores-death")) return;
    if (makes("trusts-the-socket") || makes("hup-is-death")) {
      this.#watch(connection.fd, () => {
        if (makes("hup-is-death") || !existsSync(`/proc/${this.#pid}`)) this.#close();
        else this.#watches.pop()?.close();
      });
      return;
    }
    if (makes("spins-on-hangup")) this.#watch(connection.fd, () => {});
    const pidfd = openPidfd(this.#pid);
    this.#closing.push(pidfd);
    this.#watch(pidfd.fd, () => this.#close());
  }

  /** Calls back whenever the descriptor is readable, until the session is over. */
  #watch(fd: number, onReadable: () => void): void {
    const watch = watchReadable(fd, () => {
      onReadable();
      if (this.#watches.includes(watch) && !this.#isOver) watch.arm();
    });
    this.#watches.push(watch);
    watch.arm();
  }

  #turn(): void {
    if (this.#isOver) return;
    this.#drain();
    const faults = this.#faults;
    this.#faults = faults.filter((fault) => !this.#isOver && !this.#answer(fault));
    // Whoever has removed memory must run before the kernel takes copies again.
    if (this.#faults.length > 0) setTimeout(() => this.#turn(), RETRY_MS);
  }

  #drain(): void {
    const batch = new EventBatch(makes("drops-on-eagain") ? 1 : DRAIN_CAPACITY);
    const limit = makes("takes-sixteen") ? 16 : batch.capacity;
    while (this.#uffd.drain(batch) > 0) {
      if (makes("drops-on-eagain")) setImmediate(() => this.#turn());
      for (let index = 0; index < Math.min(limit, batch.length); index++) {
        const event = decodeEvent(batch, index, this.#pageBytes);
        if (event.type === "pagefault") this.#take(event.address, event.isWrite);
        else if (event.type === "remove") this.#remove(event.start, event.end);
      }
      if (makes("drops-on-eagain")) return;
    }
  }

  #take(address: number, isWrite: boolean): void {
    if (makes("starves-others") && removingSession !== null && removingSession !== this) return;
    if (makes("zero-for-writes") && isWrite) this.#faults.push({ address, isZero: true });
    else if (makes("decides-early")) {
      this.#faults.push({ address, isZero: this.#removed.has(address) });
    } else this.#faults.push({ address, isZero: null });
  }

  #remove(start: number, end: number): void {
    removingSession = this;
    if (makes("ignores-remove")) return;
    const last = makes("removes-one-more") ? end + this.#pageBytes : end;
    for (let page = start; page < last; page += this.#pageBytes) this.#removed.add(page);
  }

  /** True if nothing is left to do for this fault. */
  #answer({ address, isZero }: Fault): boolean {
    const offset = this.#offsetOf(address);
    if (offset === null) return true;
    if (isZero ?? this.#removed.has(address)) return this.#zero(address);
    if (makes("zeroes-only")) return this.#zero(address);
    if (makes("zeropage-on-huge") && isHole(offset)) return this.#zero(address);
    const isRead = this.#fill(offset);
    if (!isRead) {
      if (makes("zero-for-lost-bytes")) return this.#zero(address);
      process.kill(this.#pid, "SIGKILL");
      return true;
    }
    return this.#install(address, this.#lengthAt(address), offset);
  }

  /** Where the bytes of an address are in the file. */
  #offsetOf(address: number): number | null {
    if (makes("one-address-space")) {
      const [first] = this.#regions;
      return address < first!.base_host_virt_addr ? null : address - first!.base_host_virt_addr;
    }
    const regions = makes("regions-of-the-first") ? firstRegions! : this.#regions;
    const region = regions.find(
      ({ base_host_virt_addr: base, size }) =>
        address + this.#pageBytes > base && address < base + size,
    );
    if (region === undefined) return null;
    return Math.max(0, region.offset + address - region.base_host_virt_addr);
  }

  /** Reads a page into the buffer; false if the file is too short for it. */
  #fill(offset: number): boolean {
    const from = makes("swaps-a-page") && offset === 1000 * SMALL_PAGE_BYTES ? 0 : offset;
    const target = Buffer.from(buffer.bytes.buffer);
    const isStale = makes("stale-buffer") && isHole(from);
    if (isStale) return true;
    return readSync(file, target, 0, this.#pageBytes, from) === this.#pageBytes;
  }

  /** How much is copied at once: batches are mistakes of several kinds here. */
  #lengthAt(address: number): number {
    const isBatch = makes("crosses-the-end") || makes("enoent-is-done") || makes("eexist-is-done");
    if (!isBatch || this.#pageBytes !== SMALL_PAGE_BYTES) return this.#pageBytes;
    const batchBytes = BATCH_PAGES * SMALL_PAGE_BYTES;
    if (makes("crosses-the-end")) return batchBytes;
    const region = this.#regions.find(
      ({ base_host_virt_addr: base, size }) => address >= base && address < base + size,
    )!;
    return Math.min(batchBytes, region.base_host_virt_addr + region.size - address);
  }

  #install(address: number, lengthBytes: number, offset: number): boolean {
    if (lengthBytes > this.#pageBytes) {
      const target = Buffer.from(buffer.bytes.buffer);
      const start = makes("eexist-is-done") ? offset - (offset % lengthBytes) : offset;
      readSync(file, target, 0, lengthBytes, start);
      return this.#settle(address - (offset - start), lengthBytes, address);
    }
    return this.#settle(address, makes("small-copies") ? SMALL_PAGE_BYTES : lengthBytes, address);
  }

  #settle(target: number, lengthBytes: number, faulting: number): boolean {
    let outcome: string;
    try {
      outcome = this.#uffd.copy(target, buffer.address, lengthBytes);
    } catch {
      return true; // EINVAL
    }
    return this.#follow(outcome, faulting);
  }

  #zero(address: number): boolean {
    const isHuge = this.#pageBytes !== SMALL_PAGE_BYTES;
    if (isHuge && !makes("zeropage-on-huge")) {
      buffer.bytes.fill(0);
      return this.#settle(address, this.#pageBytes, address);
    }
    try {
      return this.#follow(this.#uffd.zeropage(address, this.#pageBytes), address);
    } catch {
      return true; // EINVAL
    }
  }

  #follow(outcome: string, address: number): boolean {
    switch (outcome) {
      case "deferred":
        return makes("drops-on-eagain");
      case "alreadyPresent":
        if (makes("eexist-is-fatal")) process.exit(1);
        if (!makes("eexist-is-done")) this.#uffd.wake(address, this.#pageBytes);
        return true;
      default:
        return true;
    }
  }

  #close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (makes("dies-with-a-vm")) process.exit(0);
    for (const watch of this.#watches) watch.close();
    this.#uffd.close();
    for (const fd of this.#closing) fd.close();
    sessions.delete(this);
  }
}

function pageBytesOf({ page_size: bytes, page_size_kib: kib }: Region): number {
  if (makes("needs-page-size") && bytes === undefined) throw new Error("no page size");
  if (makes("kib-is-kib") && bytes === undefined && kib !== undefined) return kib * 1024;
  return bytes ?? kib ?? SMALL_PAGE_BYTES;
}

function isHole(offset: number): boolean {
  const page = Buffer.alloc(SMALL_PAGE_BYTES);
  readSync(file, page, 0, SMALL_PAGE_BYTES, offset);
  return page.every((byte) => byte === 0);
}

/** The JSON and the descriptor, in as many pieces as they come. */
async function receive(connection: OwnedFd): Promise<[readonly Region[], OwnedFd | undefined]> {
  let text = "";
  let descriptor: OwnedFd | undefined;
  const bytes = new Uint8Array(makes("small-buffer") ? 1024 : 65_536);
  for (;;) {
    const received = receiveWithFds(connection.fd, bytes);
    if (received === null) {
      await readable(connection.fd);
      continue;
    }
    descriptor ??= received.fds[0];
    if (received.byteCount === 0) throw new Error("the handshake breaks off");
    text += Buffer.from(bytes.subarray(0, received.byteCount)).toString("utf8");
    const regions = parse(text);
    if (regions !== null) return [regions, descriptor];
    if (makes("reads-once") || makes("small-buffer")) throw new Error("not whole");
  }
}

function parse(text: string): readonly Region[] | null {
  try {
    return JSON.parse(text) as readonly Region[];
  } catch {
    return null;
  }
}

function check(regions: readonly Region[], descriptor: OwnedFd | undefined): Userfaultfd {
  if (descriptor === undefined) throw new Error("no descriptor");
  if (describeFd(descriptor.fd) !== "anon_inode:[userfaultfd]") throw new Error("no userfaultfd");
  for (const region of makes("trusts-regions") ? [] : regions) {
    const { base_host_virt_addr: base, size, offset } = region;
    const isAligned = [base, size, offset].every((value) => value % SMALL_PAGE_BYTES === 0);
    const isBeyond = offset + size > fileBytes && !makes("zero-for-lost-bytes");
    if (!isAligned || isBeyond) throw new Error("bad region");
    const overlapping = regions.filter(
      (other) =>
        base < other.base_host_virt_addr + other.size && other.base_host_virt_addr < base + size,
    );
    if (overlapping.length > 1) throw new Error("overlapping regions");
    const known = makes("strict-keys") ? Object.keys(region) : [];
    if (known.some((key) => !KNOWN_KEYS.includes(key))) throw new Error("unknown key");
  }
  return Userfaultfd.fromFd(descriptor);
}

async function attach(connection: OwnedFd): Promise<void> {
  try {
    const [regions, descriptor] = await receive(connection);
    const uffd = check(regions, descriptor);
    firstRegions ??= regions;
    new Session(connection, regions, uffd);
  } catch (error) {
    process.stderr.write(`refused: ${(error as Error).message}\n`);
    connection.close();
    if (makes("deaf-after-refusal")) isDeaf = true;
    if (makes("refusal-is-fatal")) process.exit(1);
    if (makes("refusal-ends-well")) process.exit(0);
    if (makes("refusal-crashes")) process.kill(process.pid, "SIGSEGV");
  }
}

async function readable(fd: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const watch = watchReadable(fd, () => {
      watch.close();
      resolve();
    });
    watch.arm();
  });
}

process.on("SIGTERM", () => {
  if (makes("unregisters-at-the-end")) for (const session of sessions) session.unregister();
  process.exit(0);
});

const listener = listenUnix(socketPath, 64);
while (true) {
  await readable(listener.fd);
  const connection = acceptUnix(listener.fd);
  if (connection === null || isDeaf) continue;
  const attached = attach(connection);
  if (makes("one-handshake-at-a-time")) await attached;
}
