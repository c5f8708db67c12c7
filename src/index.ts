/**
 * The public API of the package `faultline`.
 *
 * - Serve snapshots: `Server`.
 * - Use userfaultfd directly: `Userfaultfd`, with `MappedRegion` and `viewOf` for memory.
 * - Ask the kernel what it allows: `probeKernel`.
 * - Speak the protocol of VMs with KVM Userfault: `parseAnyHandshake`, `ApfRing`; ask whether the
 *   kernel has it: `probeUserfault`.
 * - Ask a daemon for sessions: `ControlClient`; be one: `ControlServer`. Read what it has recorded
 *   of a VM: `readRecording`.
 * - Read and write stores of images: `openStore`, with a `TierStore` to keep chunks near.
 */
export { AssertionError } from "./base/assert.ts";
export { type ErrorCode, ExitCode, errorCodes, FaultlineError, SysError } from "./base/errors.ts";
export type { Outcome } from "./base/outcome.ts";
export type { HostAddress, ImageOffset, PageIndex } from "./base/units.ts";
export { UserfaultBitmap } from "./base/userfault-bitmap.ts";
export {
  ControlClient,
  type ControlClientOptions,
  type CreatedSession,
  type SessionFilter,
} from "./daemon/control/client.ts";
export type { ControlLimits } from "./daemon/control/limits.ts";
export { type ControlOptions, ControlServer } from "./daemon/control/server.ts";
export type { DashboardPlace, PageStory } from "./daemon/dashboard/protocol.ts";
export type {
  HostService,
  HostStatistics,
  HostView,
  ImageView,
  PageCounts,
  PrefetchView,
  SessionEndView,
  SessionSpec,
  SessionView,
  StoreStatistics,
  TraceStream,
  VmView,
} from "./daemon/host-service.ts";
export { createLogger, type LogFormat, type Logger, type LogLevel } from "./daemon/log.ts";
export { type ServeOptions, Server } from "./daemon/server.ts";
export type { SocketOwner } from "./daemon/socket-file.ts";
export type { Session, SessionEnd, SessionFailure } from "./engine/session.ts";
export type { CounterName, Counters, SessionStats, StageName } from "./engine/session-stats.ts";
export type { ErrorPolicy } from "./engine/wire.ts";
export { mapApfPage } from "./linux/apf-page.ts";
export { OwnedFd } from "./linux/fd.ts";
export { createMemfd, MappedRegion, viewOf } from "./linux/memory.ts";
export { probeUserfault, type UserfaultSupport } from "./linux/userfault-probe.ts";
export { APF_RING_ENTRIES, ApfRing } from "./pager/apf-ring.ts";
export type { SpinMode } from "./pager/pacing.ts";
export { PageState, PageTable } from "./pager/page-table.ts";
export {
  decodeFaultReply,
  decodeFaultRequest,
  FaultFlag,
  type FaultReply,
  type FaultRequest,
  FrameWriter,
  newFaultReply,
  newFaultRequest,
} from "./protocol/fault-messages.ts";
export { FrameDecoder } from "./protocol/frame-decoder.ts";
export type { GuestAddressMap, GuestAddressRange } from "./protocol/guest-addresses.ts";
export { RequestStream } from "./protocol/request-stream.ts";
export { parseRingSetup, type RingSetup, ringSetupText } from "./protocol/ring-setup.ts";
export { type ParsedHandshake, parseAnyHandshake } from "./protocol/userfault-handshake.ts";
export type { ReportSummary, RestoreReport } from "./report/restore-report.ts";
export type { GuestRegion, RegionMap } from "./snapshot/regions.ts";
export type {
  ListDepth,
  ListPage,
  ObjectStore,
  PagedObjectStore,
  StoredObject,
  Urgency,
} from "./source/object-store.ts";
export { type OpenStoreOptions, openStore } from "./source/open-store.ts";
export { defaultPolicy, type RequestPolicy, type TimeBudget } from "./source/request-policy.ts";
export type { S3Credentials, S3Options } from "./source/s3-settings.ts";
export { PolicyStore } from "./source/store-policy.ts";
export { readLatencyMs, type StoreCounters, type StoreStats } from "./source/store-stats.ts";
export { type TierCounters, type TierOptions, TierStore } from "./source/tier-store.ts";
export type { Timing } from "./source/timing.ts";
export { readRecording } from "./trace/read-recording.ts";
export type {
  Ending,
  RecordedRegion,
  Recording,
  RecordingHeader,
  TraceRecords,
} from "./trace/recording.ts";
export { adoptUserfaultfd } from "./uffd/adopt.ts";
export type { CreateOptions, CreateVia } from "./uffd/create.ts";
export {
  DRAIN_CAPACITY,
  decodeEvent,
  EventBatch,
  type FaultKind,
  type UffdEvent,
} from "./uffd/events.ts";
export { type UffdFeature, uffdFeatures } from "./uffd/features.ts";
export { type KernelReport, probeKernel } from "./uffd/probe.ts";
export {
  type PageOperation,
  type RegisterMode,
  Userfaultfd,
  type UserfaultfdOptions,
  type WakeOption,
} from "./uffd/userfaultfd.ts";
