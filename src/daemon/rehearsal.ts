/**
 * Plays one VM's restore through before the first real one comes, so that the first fault of a VM
 * does not wait for JavaScript to be compiled (it did, for 6 ms): a handshake with ourselves over a
 * page of our own memory, one fault, and the end.
 */
import { ftruncateSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Engine } from "../engine/engine.ts";
import { MAX_SURVIVAL_ID } from "../engine/surviving-batches.ts";
import { createMemfd, MappedRegion } from "../linux/memory.ts";
import { sendWithFds, socketPair } from "../linux/socket.ts";
import { getpagesize, touchInBackground } from "../linux/sys.ts";
import { parseHandshake } from "../protocol/handshake.ts";
import { pinPeer } from "../protocol/peer.ts";
import { receiveHandshake } from "../protocol/receive.ts";
import { flattenLayers } from "../snapshot/layers.ts";
import { withDeadline } from "../source/deadline.ts";
import { isInChunks, type MappedImage } from "../source/mapped-image.ts";
import type { MappedLayers } from "../source/memory-files.ts";
import { newResidencyNotes } from "../source/warm-blocks.ts";
import { adoptUserfaultfd } from "../uffd/adopt.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { Logger } from "./log.ts";

/** A worker that cannot answer one fault in this time cannot serve VMs. */
const DEADLINE_MS = 5000;

/** Before it is known what will be served: with a page of our own. */
export async function rehearseWithoutImage(engine: Engine, log: Logger): Promise<void> {
  using file = createMemfd("faultline-rehearsal");
  ftruncateSync(file.fd, SMALL_PAGE_BYTES);
  using mapping = MappedRegion.shared(file.fd, SMALL_PAGE_BYTES);
  new Uint8Array(mapping.view()).fill(1);
  await rehearse(
    engine,
    {
      runs: flattenLayers(SMALL_PAGE_BYTES, [[{ start: 0, end: SMALL_PAGE_BYTES }]]),
      fds: [file.fd],
      addresses: [mapping.address],
      residency: [newResidencyNotes(SMALL_PAGE_BYTES)],
      // It is in memory: nobody asks for a part of it.
      firstParts: [0],
    },
    log,
  );
}

/** Once per worker. Where this process may not create a userfaultfd, there is no rehearsal. */
export async function rehearse(engine: Engine, image: MappedImage, log: Logger): Promise<void> {
  // Of an image in chunks nothing is fetched for this: zeroes will do.
  const layers = isInChunks(image) ? emptyLayers(image.runs.sizeBytes) : image;
  for (let round = 0; round < engine.aliveWorkers; round++) {
    let uffd: Userfaultfd;
    try {
      uffd = Userfaultfd.create({ via: "syscall", userModeOnly: true, features: ["eventRemove"] });
    } catch (error) {
      if (!(error instanceof FaultlineError)) throw error;
      log.debug({ reason: error.message }, "No rehearsal: the first VM starts a little slower");
      return;
    }
    await restoreOnePage(engine, layers, uffd);
  }
}

async function restoreOnePage(
  engine: Engine,
  layers: MappedLayers,
  uffd: Userfaultfd,
): Promise<void> {
  const pageBytes = Math.max(SMALL_PAGE_BYTES, getpagesize());
  using memory = MappedRegion.anonymous(pageBytes);
  uffd.register(memory.address, pageBytes, ["missing"]);
  const [vmm, connection] = socketPair();
  try {
    sendWithFds(vmm.fd, handshakeFor(memory, firstDataOffset(layers, pageBytes)), [uffd.fd]);
    uffd.close();
    const peer = pinPeer(connection.fd, new Set([process.geteuid?.() ?? 0]));
    const {
      body,
      descriptors: [descriptor],
    } = await receiveHandshake(connection);
    const regions = parseHandshake(body, pageBytes);
    const session = engine.attach({
      pid: peer.pid,
      userfaultfd: adoptUserfaultfd(descriptor, regions.ranges),
      pidfd: peer.pidfd,
      socket: connection,
      regions,
      image: layers,
      onError: "kill",
      survivalId: MAX_SURVIVAL_ID - 1,
    });
    await withDeadline(
      touchInBackground(memory.address),
      DEADLINE_MS,
      "The fault worker answered no fault",
    );
    engine.detach(session);
    await session.ended;
  } finally {
    vmm.close();
    connection.close();
  }
}

function handshakeFor(memory: MappedRegion, offset: number): Uint8Array {
  const { address, sizeBytes } = memory;
  return Buffer.from(
    JSON.stringify([
      { base_host_virt_addr: address, size: sizeBytes, offset, page_size: sizeBytes },
    ]),
  );
}

function emptyLayers(sizeBytes: number): MappedLayers {
  const runs = flattenLayers(sizeBytes, []);
  return { runs, fds: [], addresses: [], residency: [], firstParts: [] };
}

/** A page with data, if there is one, so that a copy is rehearsed. */
function firstDataOffset(layers: MappedLayers, pageBytes: number): number {
  const run = layers.runs.owners.findIndex((owner) => owner >= 0);
  const offset = layers.runs.starts[Math.max(0, run)]!;
  return offset - (offset % pageBytes);
}
