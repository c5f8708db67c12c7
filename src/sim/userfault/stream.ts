/**
 * One of the two sockets between a virtual VMM and its handler. Requests stay in it until they are
 * taken out, whatever became of who looked at them; replies stay until the VMM reads them. PURE.
 */

export interface VirtualRequest {
  readonly vcpu: number;
  readonly page: number;
  readonly flags: number;
  /** Null: the VMM tells the page by its offset. */
  readonly gpa: number | null;
  readonly offset: number;
}

export interface VirtualReply {
  readonly vcpu: number;
  readonly flags: number;
  /** `NO_GPA` where the request had none. */
  readonly gpa: number;
  readonly offset: number;
}

/** Replies that the VMM's end holds. What is sent at once is never more. */
const INBOX_CAPACITY = 64;

export class VirtualStream {
  readonly requests: VirtualRequest[] = [];
  readonly inbox: VirtualReply[] = [];
  /** Something came since the handler was last told. */
  hasEdge = false;
  /** The VMM takes nothing for a while. */
  isStuck = false;

  push(request: VirtualRequest): void {
    this.requests.push(request);
    this.hasEdge = true;
  }

  /** All of them, or none: false. */
  accept(replies: readonly VirtualReply[]): boolean {
    if (this.isStuck || this.inbox.length + replies.length > INBOX_CAPACITY) return false;
    this.inbox.push(...replies);
    return true;
  }
}
