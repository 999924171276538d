import { isFallback, RefusedError, RouterFaultError, RouterUnavailableError } from "eldr-client";
import type { Placement } from "eldr-client";

/** A placement, by the names of the contract. */
export function described(placement: Placement): object {
  const { alternates, reason, similarity, coverage } = placement;
  return {
    worker_id: placement.workerId,
    url: placement.url,
    dp_rank: placement.dpRank,
    alternates: alternates.map(({ workerId, url, dpRank }) => [workerId, url, dpRank]),
    reason: reason.replace("PLACEMENT_REASON_", ""),
    is_fallback: isFallback(placement),
    repeated: placement.repeated,
    stale: placement.stale,
    policy: placement.policy,
    partition_version: Number(placement.partitionVersion),
    lease_id: placement.leaseId,
    similarity: similarity ?? null,
    coverage,
    early: placement.early,
  };
}

/** An error, as the protocol tells it. */
export function failure(error: unknown): object {
  if (error instanceof RouterUnavailableError) return { kind: "ROUTER_UNAVAILABLE" };
  if (error instanceof RouterFaultError) return { kind: "ROUTER_FAULT" };
  if (error instanceof RefusedError) {
    const { code, message, reason, field, expected, found, retryAfter } = error;
    const retry = retryAfter !== undefined && { retry_after: retryAfter / 1e3 };
    return { kind: code, message, reason, field, expected, found, ...retry };
  }
  const { name, message } = error as Error;
  if (name === "AbortError") return { kind: "CANCELLED" };
  if (error instanceof RangeError) return { kind: "INVALID_VALUE", message };
  return { kind: "BROKEN", message: `${name}: ${message}` };
}
