/**
 * File systems whose holes say nothing about 4 KiB pages: diffs on them would read as zeroes where
 * they mean "look below", so they are refused. Each is mounted for real, in a mount namespace of a
 * child process, which the test reaches through /proc.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { MemoryFiles } from "../../src/source/memory-files.ts";
import { requires } from "../support/requires.ts";

const PAGE = SMALL_PAGE_BYTES;
const SIZE = 2 * 1024 * 1024;

/** A file system that only a child process has mounted; it lives until the child's stdin ends. */
class PrivateMount {
  readonly #child: ChildProcess;
  readonly #point: string;

  private constructor(child: ChildProcess, point: string) {
    this.#child = child;
    this.#point = point;
  }

  /**
   * Runs `mount` in the mount point's folder, then makes an empty file `base` there, and runs
   * `fill`. Null where this machine does not allow it.
   */
  static async create(mount: string, fill = ":"): Promise<PrivateMount | null> {
    const point = mkdtempSync(join(tmpdir(), "faultline-mount-"));
    const script = `cd ${point}; ${mount}; cd ${point}; truncate -s ${SIZE} base; ${fill}; sync;`;
    const child = spawn("unshare", ["--mount", "sh", "-ec", `${script} echo ready; cat`], {
      stdio: ["pipe", "pipe", "ignore"],
    });
    const failed = once(child, "exit").catch(() => ["no unshare"]);
    const [first] = await Promise.race([once(child.stdout!, "data"), failed]);
    if (String(first) === "ready\n") return new PrivateMount(child, point);
    rmSync(point, { recursive: true });
    return null;
  }

  path(name: string): string {
    return `/proc/${this.#child.pid}/root${this.#point}/${name}`;
  }

  async close(): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.stdin!.end();
    await exited;
    rmSync(this.#point, { recursive: true });
  }
}

const isRoot = requires("root").skip === undefined;
const hasPool = requires("hugepages").skip === undefined;

/** Declares a suite on a mount, or a skipped one where it cannot be had. */
async function onMount(
  name: string,
  commands: Promise<PrivateMount | null> | null,
  body: (mount: PrivateMount) => void,
): Promise<void> {
  const mount = await commands;
  if (mount === null) {
    test(name, { skip: "cannot be mounted here: run as root, with loop devices and huge pages" });
    return;
  }
  describe(name, () => {
    after(() => mount.close());
    body(mount);
  });
}

const ramfs = isRoot ? PrivateMount.create("mount -t ramfs none .") : null;

await onMount("ramfs, which reports no holes", ramfs, (mount) => {
  test("a sparse layer is refused", () => {
    assert.throws(() => MemoryFiles.open(mount.path("base"), [mount.path("base")]), {
      code: "layer-holes",
      message: /is sparse \(0 B of 2 MiB\), but its file system reports no holes\. Merge/,
    });
  });

  test("a base is served: its holes read as zero through the mapping", () => {
    using files = MemoryFiles.open(mount.path("base"));
    assert.equal(files.dataBytes, SIZE);
  });
});

const smallBlocks = isRoot
  ? PrivateMount.create(
      "truncate -s 16M image; mke2fs -q -F -t ext2 -b 1024 image; mount -o loop image .",
      `truncate -s ${SIZE} inside; ` +
        `printf x | dd of=inside bs=1 seek=${PAGE + 1024} conv=notrunc status=none`,
    )
  : null;

await onMount("ext2 with blocks of 1 KiB", smallBlocks, (mount) => {
  test("a layer with holes that begin inside of a page is refused", () => {
    assert.throws(() => MemoryFiles.open(mount.path("base"), [mount.path("inside")]), {
      code: "layer-holes",
      message: /has holes that begin inside of a page: no Firecracker diff\. Merge/,
    });
  });

  test("a base counts every page that has any data", () => {
    using files = MemoryFiles.open(mount.path("inside"));
    assert.deepEqual([...files.layers.runs.starts], [0, PAGE, 2 * PAGE]);
    assert.equal(files.dataBytes, PAGE);
  });
});

const hugetlbfs = isRoot && hasPool ? PrivateMount.create("mount -t hugetlbfs none .") : null;

await onMount("hugetlbfs, whose blocks are 2 MiB", hugetlbfs, (mount) => {
  test("a layer is refused: its holes are coarser than a page", () => {
    assert.throws(() => MemoryFiles.open(mount.path("base"), [mount.path("base")]), {
      code: "layer-holes",
      message: /file system with blocks of 2 MiB, so its holes do not tell which 4 KiB pages/,
    });
  });
});
