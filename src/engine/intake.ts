/** How what a VM has to tell comes into its session, whichever way its faults come. */

/** What a descriptor in a worker's epoll is about: the high tag. The low tag is the session. */
export const About = {
  control: 0,
  /** The userfaultfd has events. */
  faults: 1,
  /** The VM's process has ended. */
  process: 2,
  requests: 3,
  asyncRequests: 4,
  /** The notify eventfd of one of its vCPUs. */
  ring: 5,
} as const;
export type About = (typeof About)[keyof typeof About];

/**
 * Whether the session may wait for the kernel to tell of more (`idle`), or has to look once more:
 * at once (`again`), or in a moment, as it has something to say that nobody takes now (`later`).
 */
export type Rest = "idle" | "again" | "later";

export interface Intake {
  /** Why the session cannot go on, for people. */
  readonly failure: string;
  /** As `drain` was told, or after writers were let go, when that was. */
  readonly nowUs: number;
  /** The kernel says that there is something. */
  notify(about: About): void;
  /** Takes all that is pending. True if there is more to do before the next is waited for. */
  drain(nowUs: number): boolean;
  /** Before the session waits. */
  rest(): Rest;
}
