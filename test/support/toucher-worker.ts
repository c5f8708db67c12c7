/** The thread behind a Toucher: does one thing at a time, and may block in it. */
import { parentPort } from "node:worker_threads";
import * as sys from "../../src/linux/sys.ts";
import type { Touch } from "./toucher.ts";

const MREMAP_MAYMOVE = 1;
const SYS_mremap = process.arch === "arm64" ? 216 : 25;

function perform(touch: Touch): number {
  switch (touch.what) {
    case "read":
      return new Uint8Array(sys.viewOf(touch.address, 1))[0]!;
    case "write":
      new Uint8Array(sys.viewOf(touch.address, 1))[0] = touch.value;
      return touch.value;
    case "madvise":
      return sys.check(sys.madvise(touch.address, touch.lengthBytes, touch.advice), "madvise");
    case "munmap":
      return sys.check(sys.munmap(touch.address, touch.lengthBytes), "munmap");
    case "mremap": {
      const { address, lengthBytes, newLengthBytes } = touch;
      const moved = sys.syscall(SYS_mremap, address, lengthBytes, newLengthBytes, MREMAP_MAYMOVE);
      return sys.check(moved, "mremap");
    }
    case "writeFrom":
      // A kernel-mode access: write(2) reads the byte on behalf of this thread.
      return sys.write(touch.fd, touch.address, 1) === -1 ? -sys.errno() : 1;
  }
}

parentPort?.on("message", (touch: Touch) => {
  try {
    parentPort?.postMessage({ value: perform(touch) });
  } catch (error) {
    parentPort?.postMessage({ error: String(error) });
  }
});
