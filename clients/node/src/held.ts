import { setTimeout as sleep } from "node:timers/promises";

import type { RouterClient } from "./client.js";
import type { Logger } from "./chores.js";
import { RouterUnavailableError } from "./errors.js";
import { duration, milliseconds } from "./duration.js";
import type { ActivationCounts } from "./proto/eldr/v1/activation.js";
import { ReleaseOutcome, type Placement } from "./proto/eldr/v1/router.js";
import type { Release, Route } from "./requests.js";

const SHORTEST_RENEWAL_MS = 100;

/** How a held placement reaches the router. */
export interface Holder {
  client: RouterClient;
  logger: Logger;
  /** Until the client is closed. */
  life: AbortSignal;
  say(release: Release): Promise<void>;
}

/**
 * A placement whose lease is kept alive until it is released. Set what is known of the decode before
 * that. `await using` releases it too: as FAILED (CANCELLED where the signal of the call is aborted)
 * if its scope is left without `release()`, as by an error.
 */
export class Held implements AsyncDisposable {
  /** Tokens generated, all sequences. */
  outputTokens = 0;
  /** Milliseconds from the first to the last token. */
  decodeDuration: number | undefined;
  /** The experts that the decode really used, for policies that learn from them. */
  decodeCounts: ActivationCounts | undefined;

  readonly #stop = new AbortController();
  #released: Promise<void> | undefined;

  /** @internal */
  constructor(
    readonly placement: Placement,
    private readonly request: Route,
    private readonly signal: AbortSignal | undefined,
    private readonly holder: Holder,
  ) {
    if (this.#isBooked) void this.#renew();
  }

  /** The chosen worker's id. */
  get workerId(): string {
    return this.placement.workerId;
  }

  /** Where it serves. */
  get url(): string {
    return this.placement.url;
  }

  /** The data-parallel rank at that url. */
  get dpRank(): number {
    return this.placement.dpRank;
  }

  /**
   * Ends the booking with how the decode ended. Only the first call counts. It never rejects: what
   * cannot be said now is said when the router is back.
   */
  release(outcome: ReleaseOutcome = ReleaseOutcome.COMPLETED): Promise<void> {
    return (this.#released ??= this.#release(outcome));
  }

  /** Releases with the outcome that an error tells: CANCELLED where the caller gave up, else FAILED. */
  fail(error: unknown): Promise<void> {
    const isAbort = error instanceof Error && error.name === "AbortError";
    const isGivenUp = isAbort || this.signal?.aborted;
    return this.release(isGivenUp ? ReleaseOutcome.CANCELLED : ReleaseOutcome.FAILED);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.fail(undefined);
  }

  /** A fallback was disowned already, if the router was asked at all; a dry run has no lease. */
  get #isBooked(): boolean {
    return this.placement.leaseId !== "";
  }

  async #release(outcome: ReleaseOutcome): Promise<void> {
    this.#stop.abort();
    if (!this.#isBooked) return;
    await this.holder.say({
      model: this.request.model,
      requestId: this.request.requestId,
      attempt: this.request.attempt ?? 0,
      leaseId: this.placement.leaseId,
      outcome,
      outputTokens: this.outputTokens,
      ...(this.decodeCounts && { decodeCounts: this.decodeCounts }),
      ...(this.decodeDuration !== undefined && { decodeDuration: duration(this.decodeDuration) }),
    });
  }

  async #renew(): Promise<void> {
    const { client, logger, life } = this.holder;
    const { model, requestId, attempt = 0 } = this.request;
    const leases = [{ requestId, attempt, leaseId: this.placement.leaseId }];
    const every = Math.max(milliseconds(this.placement.leaseRemaining) / 3, SHORTEST_RENEWAL_MS);
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await sleep(every, undefined, { signal, ref: false });
        if (life.aborted) return;
        const { unknown } = await client.renewLeases({ model, leases }, { signal });
        if (unknown.length === 0) continue;
        return logger.warn(`the booking of ${requestId} has ended`);
      } catch (error) {
        if (signal.aborted || life.aborted || error instanceof RouterUnavailableError) continue;
        logger.warn(`the lease of ${requestId} was not renewed: ${error}`);
      }
    }
  }
}
