/**
 * What the Linux guest is made of: QEMU and busybox as Debian packages them, and the kernel and
 * its virtio modules, which `scripts/fetch-guest-kernel` unpacks without installing them.
 */
import { existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { repositoryRoot } from "../../src/kit/paths.ts";

const BUSYBOX = "/bin/busybox";
const QEMU = "qemu-system-x86_64";

/** In the order in which they must be loaded. */
const MODULES = [
  "virtio_ring.ko",
  "virtio.ko",
  "virtio_pci_legacy_dev.ko",
  "virtio_pci_modern_dev.ko",
  "virtio_pci.ko",
  "virtio_balloon.ko",
] as const;

const kernelFolder = join(repositoryRoot, ".cache/guest-kernel");

export const guestParts = {
  busybox: BUSYBOX,
  qemu: QEMU,
  kernel: join(kernelFolder, "vmlinuz"),
  modules: MODULES.map((name) => ({ name, path: join(kernelFolder, name) })),
} as const;

/** Why there can be no Linux guest here, and what to do about it; or null. */
export function whyNoLinuxGuest(): string | null {
  if (process.arch !== "x64") return "the guest is built from x86-64 packages, on such a machine";
  const folders = (process.env.PATH ?? "").split(delimiter);
  if (!folders.some((folder) => existsSync(join(folder, QEMU)))) {
    return `no ${QEMU} on PATH: apt-get install --no-install-recommends qemu-system-x86`;
  }
  if (!isStaticBinary(BUSYBOX)) {
    return `no statically linked ${BUSYBOX}: apt-get install busybox-static`;
  }
  const files = [guestParts.kernel, ...guestParts.modules.map(({ path }) => path)];
  const lacking = files.find((path) => !existsSync(path));
  return lacking === undefined ? null : `no ${lacking}: run scripts/fetch-guest-kernel`;
}

/** A dynamic one names its loader near the start of the file; in the guest there is none. */
function isStaticBinary(path: string): boolean {
  return existsSync(path) && !readFileSync(path).subarray(0, 4096).includes("ld-linux");
}
