/**
 * Handshakes that `faultline serve` must refuse, each for its own reason, and be none the worse.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { within } from "../../src/kit/wait.ts";
import { MAX_HANDSHAKE_BYTES } from "../../src/protocol/handshake.ts";
import { PAGE_BYTES, TestFolder, writeFull } from "../support/fixtures.ts";
import { type FdKind, HandshakePeer, type Mapping } from "../support/handshake-peer.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 64;
const SIZE_BYTES = PAGE_COUNT * PAGE_BYTES;
const GIB = 2 ** 30;

const folder = new TestFolder();
const memory = folder.at("memory");
const socket = folder.at("socket");
let serve: ServeProcess;
let peer: HandshakePeer;
/** Descriptors of an idle serve. */
let idleFds: number;

before(async () => {
  writeFull(memory, PAGE_COUNT);
  if (needs.skip !== undefined) return;
  const files = ["--memory", memory, "--socket", socket];
  // At the level debug every refusal has a line, however many there are.
  const flags = [...files, "--handshake-timeout", "300", "--log", "debug"];
  serve = await ServeProcess.start(flags);
  idleFds = serve.fdCount;
  peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
});

after(async () => {
  await peer?.[Symbol.asyncDispose]();
  await serve?.[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** Has `attempt` be refused for `reason`; then nothing may be left of it, and VMs are served. */
async function assertRefused(attempt: () => Promise<unknown>, reason: RegExp): Promise<void> {
  const count = serve.lines("Refused a VM").length;
  await attempt();
  const line = await serve.logged("Refused a VM", count + 1);
  assert.match(String(line.reason), reason);
  assert.equal(line.pid, peer.pid);
  assert.equal(line.level, "warn");
  assert.ok(String(line.reason).length < 1000, "a peer may not flood the log");
  await serve.fdsBackTo(idleFds);
  await runVmm(socket, memory);
  await serve.fdsBackTo(idleFds);
}

/** Sends a handshake whole, and leaves the connection open. */
async function introduce(
  payload: string | Uint8Array | readonly Mapping[],
  fds?: readonly FdKind[],
): Promise<void> {
  await peer.introduce(payload, fds);
}

/** Sends the pieces one after the other, the descriptors with the last. */
async function introduceIn(pieces: readonly string[]): Promise<number> {
  const connection = await peer.connect();
  for (const [index, piece] of pieces.entries()) {
    await peer.send(connection, piece, index === pieces.length - 1 ? ["guest"] : []);
  }
  return connection;
}

describe("the descriptor", needs, () => {
  const cases: readonly (readonly [what: string, fds: readonly FdKind[], reason: RegExp])[] = [
    ["none", [], /it came without a descriptor within 300 ms \(after \d+ bytes and 0 descr/],
    ["two", ["guest", "guest"], /carries 2 descriptors instead of one/],
    [
      "three",
      ["guest", "memfd", "memfd"],
      /carries 3 descriptors; a VM with ordinary memory sends 1/,
    ],
    ["250", Array.from({ length: 250 }, () => "null" as const), /carries 250 descriptors/],
    ["an eventfd", ["eventfd"], /descriptor is anon_inode:\[eventfd\], no userfaultfd/],
    ["/dev/null", ["null"], /descriptor is \/dev\/null, no userfaultfd/],
    ["a pipe", ["pipe"], /descriptor is pipe:\[\d+\], no userfaultfd/],
    ["a memfd", ["memfd"], /descriptor is \/memfd:.*no userfaultfd/],
    ["a userfaultfd without UFFDIO_API", ["raw"], /is not set up \(no UFFDIO_API yet\)/],
    ["one with EVENT_FORK", ["eventFork"], /has the feature EVENT_FORK/],
    ["one with EVENT_REMAP", ["eventRemap"], /has the feature EVENT_REMAP/],
  ];
  for (const [what, fds, reason] of cases) {
    test(what, async () => {
      await assertRefused(() => introduce([peer.mapping()], fds), reason);
    });
  }

  test("two of them in two messages", async () => {
    const attempt = async () => {
      const json = JSON.stringify([peer.mapping()]);
      const connection = await peer.connect();
      await peer.send(connection, json.slice(0, 20), ["guest"]);
      await peer.send(connection, json.slice(20), ["guest"]);
    };
    await assertRefused(attempt, /carries 2 descriptors/);
  });
});

describe("the JSON", needs, () => {
  const texts: readonly (readonly [what: string, text: string, reason: RegExp])[] = [
    ["no JSON", "hello", /its JSON did not end within 300 ms \(after 5 bytes and 1 descr/],
    ["half of it", '[{"size":', /its JSON did not end within 300 ms/],
    ["broken inside", '[{"size" 1}]', /its JSON did not end within 300 ms/],
    ["an object", '{"regions":[]}', /its JSON did not end within 300 ms/],
    ["two in a row", "[1][1]", /its JSON did not end within 300 ms/],
    ["a list of numbers", "[1]", /no list of memory regions: .*Expected Object.* at \[0\]/],
    ["20,000 numbers", `[${"1,".repeat(20_000)}1]`, /Expected Object.*and 19998 more/],
    ["an empty list", "[]", /announces 0 memory regions; 1 to 256/],
    ["an endless list", "[".repeat(30_000) + "]".repeat(30_000), /no list of memory regions/],
  ];
  for (const [what, text, reason] of texts) {
    test(what, async () => {
      await assertRefused(() => introduce(text), reason);
    });
  }

  for (const field of ["base_host_virt_addr", "size", "offset"]) {
    const values = [4096.5, -4096, 2 ** 53, 1e300, "4096", null, [4096], undefined, true];
    test(`${field} that is no unsigned integer below 2^53`, async () => {
      for (const value of values) {
        const mapping = { ...peer.mapping(), [field]: value };
        const reason = new RegExp(`no list of memory regions: .* at \\[0\\]\\.${field}`);
        await assertRefused(() => introduce([mapping]), reason);
      }
    });
  }

  test("300 KiB of junk, with and without a descriptor", async () => {
    const junk = new Uint8Array(300 * 1024).fill(0x5d);
    const reason = new RegExp(`longer than ${MAX_HANDSHAKE_BYTES} bytes`);
    await assertRefused(() => introduce(junk), reason);
    await assertRefused(() => introduce(junk, []), /longer than|without a descriptor/);
  });
});

describe("the regions", needs, () => {
  const half = SIZE_BYTES / 2;
  const base = 0x7f00_0000_0000;
  const region = (address: number, size: number, offset: number, more: Mapping = {}): Mapping => ({
    base_host_virt_addr: address,
    size,
    offset,
    page_size: PAGE_BYTES,
    ...more,
  });
  const whole = (more: Mapping): readonly Mapping[] => [region(base, SIZE_BYTES, 0, more)];
  const cases: readonly (readonly [what: string, list: readonly Mapping[], reason: RegExp])[] = [
    [
      "300 of them",
      Array.from({ length: 300 }, (_, i) => region(base + i * 8192, 4096, i * 4096)),
      /announces 300 memory regions; 1 to 256/,
    ],
    [
      "overlapping addresses",
      [region(base, half, 0), region(base + half - 4096, half, half)],
      /overlap in their host addresses at 0x7f000001f000/,
    ],
    [
      "overlapping offsets",
      [region(base, half, 0), region(base + GIB, half, half - 4096)],
      /overlap in their image offsets at 0x1f000/,
    ],
    [
      "the same one twice",
      [region(base, half, 0), region(base, half, half)],
      /overlap in their host/,
    ],
    [
      "misaligned address",
      whole({ base_host_virt_addr: base + 8 }),
      /base_host_virt_addr 0x7f0000000008/,
    ],
    [
      "misaligned size",
      whole({ size: SIZE_BYTES - 1 }),
      /size 0x3ffff, no multiple of its page size/,
    ],
    [
      "misaligned offset",
      whole({ offset: 512 }),
      /offset 0x200, no multiple of its page size 4 KiB/,
    ],
    ["size 0", whole({ size: 0 }), /has size 0/],
    ["offset beyond the file", whole({ offset: 4096 }), /ends at offset 0x41000.*ends at 0x40000/],
    [
      "less than the file",
      whole({ size: half }),
      /has 131072 bytes of memory .*snapshot has 262144/,
    ],
    ["more than the file", whole({ size: GIB }), /has 1073741824 bytes of memory .*has 262144/],
    ["an end beyond 2^53", whole({ base_host_virt_addr: 2 ** 53 - 4096 }), /ends beyond 2\^53/],
    ["kernel addresses", whole({ base_host_virt_addr: 2 ** 52 }), /no range of user addresses/],
    ["page_size in KiB", whole({ page_size: 4 }), /page size 4 is no power of two from 4096 to/],
    ["page_size 3000", whole({ page_size: 3000 }), /page size 3000 is no power of two/],
    ["page_size 1 GiB", whole({ page_size: GIB }), /page size 1073741824 is no power of two/],
    ["page_size 0", whole({ page_size: 0 }), /page size 0 is no power of two/],
    ["page_size 64 KiB", whole({ page_size: 65_536 }), /pages of 64 KiB; this host can serve/],
    [
      "differing page sizes",
      [region(base, half, 0), region(base + GIB, half, half, { page_size: 2 ** 21 })],
      /differ in page size \(4096, 2097152\)/,
    ],
    [
      "huge pages on a file of half a one",
      whole({ page_size: 2 ** 21 }),
      /size 0x40000, no multiple of its page size 2 MiB/,
    ],
  ];
  for (const [what, list, reason] of cases) {
    test(what, async () => {
      await assertRefused(() => introduce(list), reason);
    });
  }
});

describe("the connection", needs, () => {
  test("closed at once", async () => {
    const attempt = async () => peer.close(await peer.connect());
    await assertRefused(attempt, /closed the connection in the middle of it \(after 0 bytes/);
  });

  test("closed in the middle, with and without the descriptor", async () => {
    const attempt = (fds: readonly FdKind[]) => async () => {
      const connection = await peer.connect();
      await peer.send(connection, "[{", fds);
      await peer.close(connection);
    };
    await assertRefused(attempt(["guest"]), /closed the connection in the middle of it/);
    await assertRefused(attempt([]), /it came without a descriptor \(after 2 bytes/);
  });

  test("a slow sender that never gets to the end", async () => {
    const json = JSON.stringify([peer.mapping()]);
    const attempt = () => introduceIn([...json.slice(0, -1)]);
    await assertRefused(attempt, /(without a descriptor|did not end) within 300 ms/);
  });

  test("100 peers that say nothing do not keep a VM out for long", async () => {
    const count = serve.lines("Refused a VM").length;
    const connections: number[] = [];
    for (let each = 0; each < 100; each++) connections.push(await peer.connect());
    await runVmm(socket, memory);
    const line = await serve.logged("Refused a VM", count + 100);
    assert.match(String(line.reason), /nothing came within 300 ms \(after 0 bytes and 0 descr/);
    await serve.fdsBackTo(idleFds);
    for (const connection of connections) await peer.close(connection);
  });
});

describe("what is odd, but a handshake", needs, () => {
  /** A patient serve and a peer of its own: whoever is attached stays so until it dies. */
  async function assertServed(send: (peer: HandshakePeer) => Promise<unknown>): Promise<void> {
    using own = new TestFolder();
    const path = own.at("socket");
    const content = writeFull(own.at("memory"), PAGE_COUNT, 5);
    const flags = ["--memory", own.at("memory"), "--socket", path, "--handshake-timeout", "20000"];
    await using patient = await ServeProcess.start(flags);
    await using guest = await HandshakePeer.start(path, { pageCount: PAGE_COUNT });
    await send(guest);
    await patient.loggedFor(guest.pid, "Attached a VM");
    for (const page of [0, 31, PAGE_COUNT - 1]) {
      const bytes = await guest.read(page);
      assert.ok(typeof bytes === "object");
      assert.ok(bytes.equals(content.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)));
    }
    assert.deepEqual(patient.lines("Refused a VM"), []);
  }

  for (const which of ["first", "last"] as const) {
    test(`byte by byte, the descriptor with the ${which} one`, async () => {
      await assertServed(async (guest) => {
        const json = JSON.stringify([guest.mapping()]);
        const connection = await guest.connect();
        for (const [index, byte] of [...json].entries()) {
          const isWithFd = index === (which === "first" ? 0 : json.length - 1);
          await guest.send(connection, byte, isWithFd ? ["guest"] : []);
        }
      });
    });
  }

  test("white space in and around it", async () => {
    await assertServed(async (guest) => {
      await guest.introduce(` \n${JSON.stringify([guest.mapping()], null, "\t")}\r\n`);
    });
  });

  test("regions in no order", async () => {
    await assertServed(async (guest) => {
      const half = guest.sizeBytes / 2;
      const upper = { ...guest.mapping(), size: half, offset: half };
      const lower = { ...guest.mapping(), size: half };
      await guest.introduce([{ ...upper, base_host_virt_addr: guest.base + half }, lower]);
    });
  });

  test("the connection closed right after it, as releases before v1.12 do", async () => {
    await assertServed(async (guest) => guest.close(await guest.introduce()));
  });
});

describe("what is a handshake, but a lie", needs, () => {
  /** Attaches a VM whose memory is in other pages than it says. Its first fault is its last. */
  async function assertKilled(isHuge: boolean): Promise<void> {
    const hugePageBytes = 2 ** 21;
    using own = new TestFolder();
    const path = own.at("socket");
    writeFull(own.at("memory"), (2 * hugePageBytes) / PAGE_BYTES);
    await using server = await ServeProcess.start(["--memory", own.at("memory"), "--socket", path]);
    const options = isHuge
      ? { pageCount: 2, pageSizeBytes: hugePageBytes }
      : { pageCount: (2 * hugePageBytes) / PAGE_BYTES };
    await using guest = await HandshakePeer.start(path, options);
    const pageSize = isHuge ? PAGE_BYTES : hugePageBytes;
    await guest.introduce([{ ...guest.mapping(), page_size: pageSize, page_size_kib: pageSize }]);
    await server.loggedFor(guest.pid, "Attached a VM");
    // One small page given back out of a large one that is there: it can never be installed.
    if (!isHuge) {
      await guest.read(3);
      await guest.remove(5, 1);
    }
    guest.startTouching(5);
    assert.equal((await within("the VM was killed", guest.exited, 5000)).signal, "SIGKILL");
    await server.loggedFor(guest.pid, "A VM could not be served on: it was killed");
    await server.loggedFor(guest.pid, "Detached a VM");
  }

  test("small pages for huge ones", requires("userfaultfd", "hugepages"), async () => {
    await assertKilled(true);
  });

  test("huge pages for small ones", async () => {
    await assertKilled(false);
  });
});

test("nothing of all this was an error", needs, () => {
  assert.deepEqual(
    serve.log.filter(({ level }) => level === "error"),
    [],
  );
  assert.equal(serve.errors, "");
  assert.equal(serve.exit, null);
});
