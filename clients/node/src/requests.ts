import type { MethodDefinition } from "@grpc/grpc-js";

import type {
  DeepPartial,
  RegisterSignatureRequest,
  ReleaseRequest,
  RenewLeasesRequest,
  RouteRequest,
  StreamSignaturesRequest,
} from "./proto/eldr/v1/router.js";
import { RouterServiceService } from "./proto/eldr/v1/router.js";
import { duration, milliseconds } from "./duration.js";

export type { DeepPartial };

type Identity = "model" | "requestId";

/** A request's fields; those that every request must have are required. */
export type Route = DeepPartial<RouteRequest> & Pick<RouteRequest, Identity>;
export type Release = DeepPartial<ReleaseRequest> & Pick<ReleaseRequest, Identity>;
export type Renewal = DeepPartial<RenewLeasesRequest> & Pick<RenewLeasesRequest, "model">;
export type SignatureChunk = DeepPartial<RegisterSignatureRequest> &
  Pick<RegisterSignatureRequest, Identity>;
export type StreamedChunk = DeepPartial<StreamSignaturesRequest> &
  Pick<StreamSignaturesRequest, Identity>;

export const METHODS = RouterServiceService;

/** The bytes of a request. TypeError: a value is not of its field's type, or out of its range. */
export function encode<Q, A>(method: MethodDefinition<Q, A>, request: Q): Buffer {
  try {
    return method.requestSerialize(request);
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new TypeError(`${method.path}: expected values of the contract's types, ${problem}`);
  }
}

type Waits = Pick<RouteRequest, "waitForSignature" | "maxWait">;

/** How long a request asks to wait, in milliseconds. */
export function waits(request: Waits | undefined): number {
  return milliseconds(request?.waitForSignature) + milliseconds(request?.maxWait);
}

/** The waits that are left after `passed` milliseconds. They come one after the other. */
export function waitsLeft(request: Waits, passed: number): Partial<Waits> {
  const first = milliseconds(request.waitForSignature);
  const second = milliseconds(request.maxWait);
  return {
    ...(first > 0 && { waitForSignature: duration(Math.max(first - passed, 0)) }),
    ...(second > 0 && { maxWait: duration(Math.max(second - Math.max(passed - first, 0), 0)) }),
  };
}
