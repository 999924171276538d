/**
 * Asks an ELDR router for decode placements.
 *
 * The messages are the contract's own. No call fails because the router is away: `route` and `place`
 * then answer with a worker of the client's own choice (`isFallback`), and releases are kept until
 * the router is back.
 */
export { RouterClient, type ClientOptions } from "./client.js";
export type { CallOptions } from "./call.js";
export type { Logger } from "./chores.js";
export type { TlsOptions } from "./connection.js";
export { counts, type CountsOptions, type FlatCounts } from "./counts.js";
export { duration, milliseconds } from "./duration.js";
export {
  EldrError,
  RefusedError,
  RouterFaultError,
  RouterUnavailableError,
  type RefusalDetails,
  type StatusName,
} from "./errors.js";
export { isFallback, targets, type FallbackWorker } from "./fallback.js";
export type { Held } from "./held.js";
export { ActivationCounts, SparseCounts } from "./proto/eldr/v1/activation.js";
export {
  Placement,
  PlacementReason,
  RegisterSignatureRequest,
  RegisterSignatureResponse,
  ReleaseOutcome,
  ReleaseRequest,
  ReleaseResult,
  RenewLeasesRequest,
  RenewLeasesResponse,
  RouteRequest,
  RouterServiceClient,
  StreamSignaturesRequest,
  WorkerScore,
  WorkerTarget,
} from "./proto/eldr/v1/router.js";
export type { Release, Renewal, Route, SignatureChunk, StreamedChunk } from "./requests.js";
