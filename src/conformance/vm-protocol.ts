/** What the controller of a conformance VM asks of it, and what it answers. */

export interface VmSetup {
  /** What the VM compares its memory with; read when it starts. */
  readonly expectedPath: string;
  /** Its regions, in the order of the memory file, in pages of 4 KiB. */
  readonly regionPages: readonly number[];
  readonly pageSizeBytes: number;
  readonly hasRemove: boolean;
}

/** What it says first: where its regions lie. */
export interface VmHello {
  readonly addresses: readonly number[];
}

/** What can go with a handshake: the VM's userfaultfd, or something that will not do. */
export type Attachment = "userfaultfd" | "memfd";

/**
 * A page as it was found: `F` the bytes of the memory file, `B` the same, and they are zero, `Z`
 * zero where the file is not, `W` what the VM has written, `?` no answer, `X` anything else.
 */
export type Found = "F" | "B" | "Z" | "W" | "?" | "X";

/** One letter for each page that was asked for, and what `X` pages hold. */
export interface Reading {
  readonly found: string;
  readonly oddities: Readonly<Record<number, string>>;
}

export type VmOrder =
  /** Tells that it lives. */
  | { readonly what: "greet" }
  /** Maps and registers memory. */
  | { readonly what: "setup"; readonly setup: VmSetup }
  /** Drops everything. No thread may be blocked now. */
  | { readonly what: "reset" }
  | { readonly what: "connect"; readonly socketPath: string }
  | {
      readonly what: "send";
      readonly connection: number;
      readonly text: string;
      readonly attachments: readonly Attachment[];
    }
  /** Ends when the handler has read all that was sent, or the time is up. */
  | { readonly what: "flush"; readonly connection: number; readonly deadlineMs: number }
  | { readonly what: "close"; readonly connection: number }
  /** Touches pages in this order with so many threads. */
  | {
      readonly what: "read";
      readonly pages: readonly number[];
      readonly threads: number;
      readonly deadlineMs: number;
    }
  /** Has the kernel read the pages: write(2) from guest memory to a file. */
  | { readonly what: "writeOut"; readonly run: Run; readonly deadlineMs: number }
  /** Has the kernel write into the pages what the VM would: read(2) from a file. */
  | { readonly what: "readIn"; readonly pages: readonly number[]; readonly deadlineMs: number }
  /** Writes some bytes into each page. `over`: what the rest of the page must be then. */
  | {
      readonly what: "write";
      readonly pages: readonly number[];
      readonly over: "file" | "zero";
      readonly threads: number;
      readonly deadlineMs: number;
    }
  /** MADV_DONTNEED for each run. Answers with how many of the calls have returned. */
  | {
      readonly what: "remove";
      readonly runs: readonly Run[];
      readonly threads: number;
      readonly deadlineMs: number;
    }
  | { readonly what: "protect"; readonly run: Run; readonly isAccessible: boolean }
  /** UFFDIO_WAKE over all memory: whoever is blocked faults again. */
  | { readonly what: "wake" }
  /** Ends when something is unread in the userfaultfd; false if the time is up. */
  | { readonly what: "untilUnread"; readonly deadlineMs: number }
  | { readonly what: "exit" };

export interface Run {
  readonly first: number;
  readonly count: number;
}

export type VmValue = number | boolean | Reading | VmHello;
export type VmAnswer =
  | { readonly id: number; readonly value: VmValue }
  | { readonly id: number; readonly error: string };
