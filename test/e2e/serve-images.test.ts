/** What `faultline serve` reads from: sparse files, stacks of diffs, small pages and huge ones. */
import assert from "node:assert/strict";
import { copyFileSync, truncateSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import {
  overlay,
  PAGE_BYTES,
  type PageRun,
  Random,
  randomRuns,
  TestFolder,
  writeFull,
  writeSparse,
} from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { type LogLine, ServeProcess } from "../support/serve-process.ts";
import { Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const needsHugePages = requires("userfaultfd", "cc", "hugepages");
/** 16 MiB: 8 huge pages. */
const PAGE_COUNT = 4096;
const PAGES_PER_HUGE_PAGE = 512;

type Option = string | number;

/** Serves the files to one VM, which compares all it reads with `merged`. Returns its last line. */
async function serveOne(
  folder: TestFolder,
  layers: readonly string[],
  merged: string,
  ...options: readonly Option[]
): Promise<LogLine> {
  const socket = folder.at("socket");
  const flags = layers.flatMap((layer) => ["--layer", layer]);
  const memory = ["--memory", folder.at("memory")];
  await using serve = await ServeProcess.start([...memory, ...flags, "--socket", socket]);
  await using vmm = new Vmm(socket, merged, options);
  const { code } = await vmm.ended();
  const line = await serve.loggedFor(vmm.pid, "Detached a VM");
  assert.equal(code, 0, vmm.errors + serve.describeLog());
  return line;
}

interface Layered {
  /** The diff files, lowest first. */
  readonly paths: readonly string[];
  /** The file that base and diffs make together. */
  readonly merged: string;
}

/** A base file, and one diff above it for each list of runs. */
function writeLayers(folder: TestFolder, base: Buffer, diffs: readonly PageRun[][]): Layered {
  const merged = Buffer.from(base);
  const paths = diffs.map((runs, index) => {
    const path = folder.at(`diff-${index + 1}`);
    const content = writeSparse(path, base.length / PAGE_BYTES, runs, 100 + index);
    overlay(merged, content, runs);
    return path;
  });
  writeFileSync(folder.at("merged"), merged);
  return { paths, merged: folder.at("merged") };
}

/** A base with holes, so that pages come from layers, from the base, and from nowhere. */
function writeBase(folder: TestFolder, random: Random, longest: number): Buffer {
  const runs = randomRuns(random, PAGE_COUNT, longest);
  return writeSparse(folder.at("memory"), PAGE_COUNT, runs, random.next());
}

describe("a sparse memory file", needs, () => {
  test("holes are served as zeroes and counted as such", async () => {
    using folder = new TestFolder();
    const runs = randomRuns(new Random(7), PAGE_COUNT, 24);
    const dataPages = runs.reduce((sum, { first, end }) => sum + end - first, 0);
    writeSparse(folder.at("memory"), PAGE_COUNT, runs, 7);
    const line = await serveOne(folder, [], folder.at("memory"));
    assert.equal(line.installedPages, dataPages);
    assert.equal(line.zeroPages, PAGE_COUNT - dataPages);
  });

  test("a file that is one hole is a guest full of zeroes", async () => {
    using folder = new TestFolder();
    writeSparse(folder.at("memory"), PAGE_COUNT, [], 1);
    const line = await serveOne(folder, [], folder.at("memory"), "--threads", 4);
    assert.equal(line.installedPages, 0);
    assert.equal(line.zeroPages, PAGE_COUNT);
  });
});

describe("diff layers", needs, () => {
  for (const depth of [1, 2, 3]) {
    for (const seed of [1, 2]) {
      test(`${depth} deep with random extents (seed ${seed})`, async () => {
        using folder = new TestFolder();
        const random = new Random(seed * 10 + depth);
        const base = writeBase(folder, random, 40);
        const diffs = Array.from({ length: depth }, () => randomRuns(random, PAGE_COUNT, 60));
        const { paths, merged } = writeLayers(folder, base, diffs);
        await serveOne(folder, paths, merged, "--regions", 3, "--threads", 2);
      });
    }
  }

  test("a layer's hole reads from the layer below, at both ends of the file too", async () => {
    using folder = new TestFolder();
    const base = writeFull(folder.at("memory"), PAGE_COUNT);
    const ends: PageRun[] = [
      { first: 0, end: 1 },
      { first: PAGE_COUNT - 1, end: PAGE_COUNT },
    ];
    const middle: PageRun[] = [{ first: 1, end: PAGE_COUNT - 1 }];
    for (const diffs of [[ends], [middle], [middle, ends], [ends, middle]]) {
      using layers = new TestFolder();
      const { paths, merged } = writeLayers(layers, base, diffs);
      await serveOne(folder, paths, merged);
    }
  });

  test("an empty diff changes nothing, above and below another", async () => {
    using folder = new TestFolder();
    const base = writeFull(folder.at("memory"), PAGE_COUNT);
    const some: PageRun[] = [{ first: 100, end: 200 }];
    const { paths, merged } = writeLayers(folder, base, [[], some, []]);
    await serveOne(folder, paths, merged);
  });

  test("a diff of every page hides all below it", async () => {
    using folder = new TestFolder();
    const base = writeFull(folder.at("memory"), PAGE_COUNT);
    const all: PageRun[] = [{ first: 0, end: PAGE_COUNT }];
    const { paths, merged } = writeLayers(folder, base, [[{ first: 3, end: 9 }], all]);
    copyFileSync(paths[1]!, folder.at("top"));
    await serveOne(folder, paths, folder.at("top"));
    await serveOne(folder, paths, merged);
  });

  test("zeroes that a diff really holds hide the base", async () => {
    using folder = new TestFolder();
    const base = writeFull(folder.at("memory"), PAGE_COUNT);
    const diff = folder.at("diff");
    const runs: PageRun[] = [{ first: 0, end: 64 }];
    writeFileSync(diff, Buffer.alloc(64 * PAGE_BYTES));
    truncateSync(diff, base.length);
    overlay(base, Buffer.alloc(base.length), runs);
    writeFileSync(folder.at("merged"), base);
    await serveOne(folder, [diff], folder.at("merged"));
  });

  test("with a balloon, what is given back stays zero in every layer", async () => {
    using folder = new TestFolder();
    const random = new Random(99);
    const base = writeBase(folder, random, 40);
    const diffs = [randomRuns(random, PAGE_COUNT, 30), randomRuns(random, PAGE_COUNT, 30)];
    const { paths, merged } = writeLayers(folder, base, diffs);
    const options = ["--balloon", "--threads", 4, "--touch", "random:1500"];
    const line = await serveOne(folder, paths, merged, ...options);
    assert.ok(Number(line.removedPages) > 500);
  });
});

describe("huge pages", needsHugePages, () => {
  test("a full memory file, touched by 4 threads", async () => {
    using folder = new TestFolder();
    writeFull(folder.at("memory"), PAGE_COUNT);
    const options = ["--huge", "--regions", 2, "--threads", 4];
    const line = await serveOne(folder, [], folder.at("memory"), ...options);
    assert.equal(line.installedPages, PAGE_COUNT / PAGES_PER_HUGE_PAGE);
  });

  test("a page that is all hole counts as zero, one that is partly hole as data", async () => {
    using folder = new TestFolder();
    const runs: PageRun[] = [
      { first: 0, end: 1 },
      { first: 3 * PAGES_PER_HUGE_PAGE + 7, end: 4 * PAGES_PER_HUGE_PAGE },
    ];
    writeSparse(folder.at("memory"), PAGE_COUNT, runs, 5);
    const line = await serveOne(folder, [], folder.at("memory"), "--huge", "--version", "v1.7");
    assert.equal(line.installedPages, 2);
    assert.equal(line.zeroPages, PAGE_COUNT / PAGES_PER_HUGE_PAGE - 2);
  });

  test("a page whose bytes come from several layers is put together", async () => {
    for (const seed of [1, 2, 3]) {
      using folder = new TestFolder();
      const random = new Random(seed);
      const base = writeBase(folder, random, 700);
      const diffs = [700, 100, 300].map((longest) => randomRuns(random, PAGE_COUNT, longest));
      const { paths, merged } = writeLayers(folder, base, diffs);
      await serveOne(folder, paths, merged, "--huge", "--threads", 2);
    }
  });

  test("with a balloon", async () => {
    using folder = new TestFolder();
    const random = new Random(4);
    const base = writeBase(folder, random, 900);
    const { paths, merged } = writeLayers(folder, base, [randomRuns(random, PAGE_COUNT, 900)]);
    const options = ["--huge", "--balloon", "--regions", 2, "--threads", 4];
    const line = await serveOne(folder, paths, merged, ...options, "--touch", "random:6");
    assert.ok(Number(line.removedPages) >= 2);
  });
});
