/**
 * A mirror of src/engine/guest-memfd.ts on a virtual kernel: how pages come into the memory of a VM
 * with KVM Userfault, and the ways to those who wait. PURE.
 */
import type { Outcome } from "../../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import type { UserfaultBitmap } from "../../base/userfault-bitmap.ts";
import type { Answers, Wires } from "../../pager/answers.ts";
import type { GuestFile, Population, WriteRefusal } from "../../pager/population.ts";
import type { RegionMap } from "../../snapshot/regions.ts";
import { HandlerFailure } from "../failures.ts";
import { UNREADABLE, ZERO_BODY } from "../virtual-memory.ts";
import type { HandledPages } from "../virtual-session.ts";
import type { SocketKind, UserfaultKernel } from "./kernel.ts";
import type { VirtualReply } from "./stream.ts";

/** Where the bytes of the copy at hand begin: any address will do. */
const SOURCE_ADDRESS = 2 ** 40;

/** The file, and the bytes that the handler puts there. */
export class VirtualFile implements GuestFile {
  source: readonly number[] = [];
  readonly #kernel: UserfaultKernel;

  constructor(kernel: UserfaultKernel) {
    this.#kernel = kernel;
  }

  write(sourceAddress: number, lengthBytes: number, offset: number): number | WriteRefusal {
    const from = (sourceAddress - SOURCE_ADDRESS) / SMALL_PAGE_BYTES;
    const first = offset / SMALL_PAGE_BYTES;
    const pages = lengthBytes / SMALL_PAGE_BYTES;
    if (![from, first, pages].every(Number.isInteger) || pages < 1) {
      throw new HandlerFailure(`EINVAL: pwrite of ${lengthBytes} bytes at ${offset}`);
    }
    if (this.source[from] === UNREADABLE) return "badSource";
    return this.#kernel.write(first, pages, (index) => this.source[from + index]!);
  }
}

export interface GuestPagesOptions {
  readonly kernel: UserfaultKernel;
  readonly file: VirtualFile;
  readonly population: Population;
  readonly answers: Answers;
  readonly regions: RegionMap;
  readonly bitmap: UserfaultBitmap;
}

export class VirtualGuestPages implements HandledPages {
  readonly isHugetlb = false;
  protected readonly options: GuestPagesOptions;

  constructor(options: GuestPagesOptions) {
    this.options = options;
  }

  get doneBytes(): number {
    return this.options.population.doneBytes;
  }

  get progress(): number {
    return this.options.kernel.progress;
  }

  set progress(progress: number) {
    this.options.kernel.progress = progress;
  }

  copy(target: number, bodies: readonly number[], wakes = true): Outcome {
    const { population, file, answers } = this.options;
    const page = this.pageAt(target);
    file.source = bodies;
    const outcome = population.install(page, SOURCE_ADDRESS, bodies.length * SMALL_PAGE_BYTES);
    if (wakes) answers.announce(page, page + population.doneBytes / SMALL_PAGE_BYTES);
    return outcome;
  }

  zeropage(target: number, pages: number, wakes = true): Outcome {
    return this.copy(target, new Array<number>(pages).fill(ZERO_BODY), wakes);
  }

  poison(): Outcome {
    return "unregistered";
  }

  /** Neighbours in the VMM's address space may lie far from each other in the file. */
  wake(start: number, lengthBytes: number): void {
    const { regions } = this.options;
    for (let region = 0; region < regions.regions.length; region++) {
      const from = Math.max(start, regions.baseOf(region));
      const to = Math.min(start + lengthBytes, regions.endOf(region));
      if (from < to) this.wakePages(regions.pageAt(region, from), regions.pageAt(region, to));
    }
  }

  protected wakePages(first: number, end: number): void {
    this.options.answers.announceInstalled(first, end);
  }

  // What a handler of such a VM has no use for.

  read(): number {
    throw new HandlerFailure("read messages as of a VM without KVM Userfault");
  }

  letGo(): void {
    throw new HandlerFailure("let a VM go that goes on asking");
  }

  close(): void {}

  protected pageAt(address: number): number {
    const { regions } = this.options;
    return regions.pageAt(regions.regionAt(address), address);
  }
}

export class VirtualWires implements Wires {
  readonly #kernel: UserfaultKernel;
  #replies: VirtualReply[] = [];

  constructor(kernel: UserfaultKernel) {
    this.#kernel = kernel;
  }

  continuePage(page: number): Outcome {
    return this.#kernel.continuePage(page);
  }

  zeroPage(page: number): Outcome {
    return this.#kernel.zeroPage(page);
  }

  wakePage(page: number): void {
    this.#kernel.wakePage(page);
  }

  addReply(vcpu: number, flags: number, gpa: number, offset: number): void {
    this.#replies.push({ vcpu, flags, gpa, offset });
  }

  sendReplies(kind: SocketKind): boolean {
    const isSent = this.#kernel.send(kind, this.#replies);
    this.#replies = [];
    return isSent;
  }

  signalCompletions(vcpu: number): void {
    this.#kernel.signalCompletions(vcpu);
  }
}
