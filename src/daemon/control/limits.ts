/** What clients may take of the daemon, whose main thread also receives VMs. */
export interface ControlLimits {
  /** Connections at once; more are closed as they come. */
  readonly connections: number;
  /** Requests at once that change something and wait for it; more are answered with 429. */
  readonly requests: number;
  readonly bodyBytes: number;
  /** All headers of a request together, and its first line. */
  readonly headerBytes: number;
  /** From the first byte of a connection until its headers are there. */
  readonly headersTimeoutMs: number;
  /** … and until its body is. */
  readonly requestTimeoutMs: number;
  /** A connection without a request. */
  readonly idleTimeoutMs: number;
  /** For a client to read what it was answered. */
  readonly answerTimeoutMs: number;
  /** How often slow connections are looked for. */
  readonly checkEveryMs: number;
  /** What `close` lets requests under way take. */
  readonly closeTimeoutMs: number;
}

export const defaultLimits: ControlLimits = {
  connections: 256,
  requests: 64,
  bodyBytes: 64 * 1024,
  headerBytes: 16 * 1024,
  headersTimeoutMs: 5000,
  requestTimeoutMs: 10_000,
  idleTimeoutMs: 30_000,
  answerTimeoutMs: 30_000,
  checkEveryMs: 1000,
  closeTimeoutMs: 2000,
};
