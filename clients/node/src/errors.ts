import { status as Code, type ServiceError } from "@grpc/grpc-js";

import { BadRequest, ErrorInfo, RetryInfo } from "./proto/google/rpc/error_details.js";
import { Status } from "./proto/google/rpc/status.js";
import { milliseconds } from "./duration.js";

/** The name of a gRPC status. */
export type StatusName = keyof typeof Code;

/** A call that was not served. One of the three classes below. */
export abstract class EldrError extends Error {
  constructor(
    readonly code: StatusName,
    message: string,
  ) {
    super(`${code}: ${message}`);
    this.name = new.target.name;
  }
}

/** No router answered. From `route` and `place`: and no worker is known to fall back on. */
export class RouterUnavailableError extends EldrError {}

/** What came is no answer of the contract: a fault of the router, or of something before it. */
export class RouterFaultError extends EldrError {}

/** What a router says of a refusal, as far as it says it. */
export interface RefusalDetails {
  /** The router's own word for the cause (ErrorInfo.reason). */
  reason?: string;
  /** The first violation of an INVALID_ARGUMENT. */
  field?: string;
  expected?: string;
  found?: string;
  /** Milliseconds to wait after a RESOURCE_EXHAUSTED. */
  retryAfter?: number;
}

/** The router's answer that it does not serve the call. */
export class RefusedError extends EldrError {
  readonly reason: string;
  readonly field: string;
  readonly expected: string;
  readonly found: string;
  readonly retryAfter: number | undefined;

  constructor(code: StatusName, message: string, details: RefusalDetails) {
    super(code, message);
    this.reason = details.reason ?? "";
    this.field = details.field ?? "";
    this.expected = details.expected ?? "";
    this.found = details.found ?? "";
    this.retryAfter = details.retryAfter;
  }
}

const DOMAIN = "eldr";
const DETAILS = "grpc-status-details-bin";
const SILENCE = new Set<StatusName>(["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"]);
const ANSWERS = new Set<StatusName>([
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "FAILED_PRECONDITION",
  "RESOURCE_EXHAUSTED",
  "UNAUTHENTICATED",
  "PERMISSION_DENIED",
  "UNAVAILABLE",
]);

/** What a call failed with, as one of the classes above; anything but a gRPC status as it is. */
export function fromFailure(failure: unknown): unknown {
  if (!isServiceError(failure)) return failure;
  const [bytes] = failure.metadata.get(DETAILS);
  const details = bytes instanceof Buffer ? Status.decode(bytes).details : [];
  // grpc-js says INTERNAL where a connection broke in the midst of a call; no router said it.
  const isReset =
    failure.code === Code.INTERNAL && failure.details.startsWith("Received RST_STREAM");
  const code = isReset ? Code.UNAVAILABLE : failure.code;
  return fromStatus({ code, message: failure.details, details });
}

/** The error of a google.rpc.Status. */
export function fromStatus(status: Status): EldrError {
  const code = (Code[status.code] ?? "UNKNOWN") as StatusName;
  let info: ErrorInfo | undefined;
  let retry: RetryInfo | undefined;
  let request: BadRequest | undefined;
  for (const { typeUrl, value } of status.details) {
    if (typeUrl.endsWith("/google.rpc.ErrorInfo")) info = ErrorInfo.decode(value);
    if (typeUrl.endsWith("/google.rpc.RetryInfo")) retry = RetryInfo.decode(value);
    if (typeUrl.endsWith("/google.rpc.BadRequest")) request = BadRequest.decode(value);
  }
  // Only the router adds its ErrorInfo; without it, gRPC itself gave these, as no server answered.
  // A router that stops cancels what is under way.
  if (SILENCE.has(code) && info?.domain !== DOMAIN) {
    return new RouterUnavailableError(code, status.message);
  }
  if (!ANSWERS.has(code)) return new RouterFaultError(code, status.message);
  return new RefusedError(code, status.message, {
    reason: info?.reason ?? "",
    // The metadata says the same without the ambiguity of a sentence.
    ...(info?.metadata.field ? info.metadata : violation(request)),
    ...(retry?.retryDelay && { retryAfter: milliseconds(retry.retryDelay) }),
  });
}

function violation(request: BadRequest | undefined): RefusalDetails {
  const first = request?.fieldViolations[0];
  if (!first) return {};
  const [expected = "", found = ""] = first.description.replace(/^expected /, "").split(", found ");
  return { field: first.field, expected, found };
}

function isServiceError(failure: unknown): failure is ServiceError {
  return failure instanceof Error && "code" in failure && "metadata" in failure;
}
