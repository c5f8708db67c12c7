/**
 * So much less of a busy CPU do handshakes, the log and V8's helpers get than the fault workers,
 * for which a vCPU waits: about a tenth (decision 9).
 */
export const NICE_BY = 10;
