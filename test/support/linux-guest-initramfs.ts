/**
 * The root file system of the Linux guest: a cpio archive in the "newc" format, which the kernel
 * unpacks into memory. Each entry is a header of 13 hexadecimal fields, a name and the content;
 * name and content are padded to four bytes. See the kernel's initramfs-buffer-format.rst.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { guestParts } from "./linux-guest-parts.ts";

/** A file whose content is known: what the guest hashes must be this. */
export const notes = Buffer.from(
  "A page that was never touched is a page never loaded.\n".repeat(999),
);
export const NOTES_PATH = "/notes";

const FOLDER = 0o040755;
const PROGRAM = 0o100755;
const FILE = 0o100644;
const CHARACTER_DEVICE = 0o020600;
/** The kernel opens it for the first process before that can mount anything. */
const CONSOLE_DEVICE = { major: 5, minor: 1 };

interface Entry {
  readonly name: string;
  readonly mode: number;
  readonly content?: Buffer;
  readonly device?: { readonly major: number; readonly minor: number };
}

export function buildInitramfs(): Buffer {
  const folders = ["bin", "data", "dev", "modules", "proc", "sys"];
  const guestFolder = join(repositoryRoot, "test/guest");
  const service = compile(join(guestFolder, "warm-service.c"), ["-static"]);
  const order = guestParts.modules.map(({ name }) => `${name}\n`).join("");
  return cpio([
    ...folders.map((name) => ({ name, mode: FOLDER })),
    { name: "dev/console", mode: CHARACTER_DEVICE, device: CONSOLE_DEVICE },
    { name: "init", mode: PROGRAM, content: readFileSync(join(guestFolder, "init")) },
    { name: "bin/busybox", mode: PROGRAM, content: readFileSync(guestParts.busybox) },
    { name: "bin/warm-service", mode: PROGRAM, content: readFileSync(service) },
    ...guestParts.modules.map(({ name, path }) => ({
      name: `modules/${name}`,
      mode: FILE,
      content: readFileSync(path),
    })),
    { name: "modules/order", mode: FILE, content: Buffer.from(order) },
    { name: NOTES_PATH.slice(1), mode: FILE, content: notes },
  ]);
}

function cpio(entries: readonly Entry[]): Buffer {
  const trailer: Entry = { name: "TRAILER!!!", mode: 0 };
  return Buffer.concat([...entries, trailer].flatMap((entry, index) => encode(entry, index + 1)));
}

function encode(entry: Entry, inode: number): Buffer[] {
  const content = entry.content ?? Buffer.alloc(0);
  const name = Buffer.from(`${entry.name}\0`);
  const { major, minor } = entry.device ?? { major: 0, minor: 0 };
  const fields = [
    inode,
    entry.mode,
    0, // owner: root
    0, // group: root
    1, // links
    0, // time of the last change
    content.length,
    0, // device that the file lies on, major
    0, // and minor
    major,
    minor,
    name.length,
    0, // checksum: not in this format
  ];
  const header = fields.map((field) => field.toString(16).padStart(8, "0")).join("");
  return [padded(Buffer.concat([Buffer.from(`070701${header}`), name])), padded(content)];
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
