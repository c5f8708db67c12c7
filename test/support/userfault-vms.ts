/** VMs with KVM Userfault: models of VMM and kernel, by bench/reference/userfault-vm.c. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Child } from "../../src/kit/child.ts";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import type { Random } from "./fixtures.ts";
import type { VmKind, VmLife } from "./restored-vms.ts";

const SOURCE = join(repositoryRoot, "bench/reference/userfault-vm.c");
/** The model's own, for each answer: several pagers may die meanwhile. */
const DEADLINE_S = 30;
/** Of a whole VM, deaths of its pagers included. */
const LIFE_MS = 120_000;

/** Its line of counts, as numbers. */
export interface ModelCounts {
  readonly sync: number;
  readonly apf: number;
  readonly ring: number;
  readonly host: number;
  /** Answers that came twice. */
  readonly repeated: number;
}

export class ModelVm implements VmLife {
  readonly over: Promise<unknown>;
  readonly #child: Child;
  readonly #verdict: Promise<string>;

  constructor(socketPath: string, memory: string, scenario: string, seed: number) {
    const binary = compile(SOURCE, ["-pthread"]);
    const words = [socketPath, memory, scenario, String(seed), String(DEADLINE_S)];
    this.#child = new Child([binary, ...words]);
    this.#verdict = this.#child.line(LIFE_MS);
    this.over = this.#verdict.catch(() => undefined);
  }

  get pid(): number {
    return this.#child.pid;
  }

  async finish(): Promise<null> {
    await this.counts();
    return null;
  }

  /** When it has looked at all of its memory. */
  async counts(): Promise<ModelCounts> {
    const verdict = await this.#verdict;
    const [, ...numbers] =
      /^ok \d+ pages: (\d+) sync, (\d+) apf, (\d+) ring, (\d+) host, (\d+) repeated$/.exec(
        verdict,
      ) ?? [];
    assert.equal(numbers.length, 5, verdict);
    const [sync = 0, apf = 0, ring = 0, host = 0, repeated = 0] = numbers.map(Number);
    return { sync, apf, ring, host, repeated };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child[Symbol.asyncDispose]();
  }
}

/** Faults in all ways for some seconds. `onEnd` is told what it has counted. */
export function besiegedUserfault(memory: string, onEnd: (counts: ModelCounts) => void): VmKind {
  return {
    name: "KVM Userfault",
    spec: { memory, asyncFaults: true },
    isLasting: false,
    start: (socketPath: string, random: Random) => {
      const vm = new ModelVm(socketPath, memory, "siege", random.below(2 ** 20));
      void vm.counts().then(onEnd, () => undefined);
      return vm;
    },
  };
}
