import { setTimeout as sleep } from "node:timers/promises";

import type { Chores } from "./chores.js";
import type { Limits } from "./connection.js";
import { fromFailure, RouterUnavailableError } from "./errors.js";

/**
 * Before the second and third try, in milliseconds. The second helps when a connection broke under
 * the call, the third when the router is back.
 */
const RETRY_PAUSES = [25, 100];

/** What a caller may say of one call. */
export interface CallOptions {
  /** Ends the call when it aborts, and what the call may have booked. */
  signal?: AbortSignal | undefined;
  /**
   * Milliseconds for all tries together; by default those of the client, and on top of them what
   * the request asks to wait for.
   */
  timeout?: number | undefined;
}

/** One RPC as the tries see it. */
export interface Call<A> {
  model: string;
  /** Milliseconds that the request asks to wait for. */
  wait: number;
  options: CallOptions;
  /** One try, `passed` milliseconds after the first. */
  try(limits: Limits, passed: number): Promise<A>;
}

/** Sends calls again (they are idempotent) while no answer comes and time is left. */
export class Caller {
  constructor(
    private readonly timeout: number,
    private readonly several: boolean,
    private readonly chores: Chores,
    private readonly life: AbortSignal,
  ) {}

  /**
   * The answer. Where there are replicas, a try takes its waits and at most half of the rest, so that
   * a frozen one leaves time to ask another.
   */
  async call<A>(call: Call<A>): Promise<A> {
    const { wait, options } = call;
    const { signal } = options;
    const began = Date.now();
    const deadline = began + (options.timeout ?? this.timeout + wait);
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      if (this.life.aborted) throw new Error("expected an open client, found a closed one");
      if (this.chores.isSilent) {
        throw new RouterUnavailableError("UNAVAILABLE", "it was silent a moment ago");
      }
      const pause = (RETRY_PAUSES[attempt] ?? Infinity) * (1 + Math.random() / 4);
      const now = Date.now();
      let until = deadline;
      if (this.several && now + pause < deadline) {
        const patience = Math.max(wait - (now - began), 0);
        until = now + patience + Math.max(deadline - now - patience, 0) / 2;
      }
      try {
        return await call.try({ until, signal }, attempt === 0 ? 0 : now - began);
      } catch (error) {
        signal?.throwIfAborted();
        const failure = fromFailure(error);
        if (!(failure instanceof RouterUnavailableError)) throw failure;
        const isLate = Date.now() + pause > deadline;
        if (isLate || (failure.code === "DEADLINE_EXCEEDED" && !this.several)) {
          this.chores.trip(call.model, failure);
          throw failure;
        }
      }
      await sleep(pause, undefined, signal && { signal }).catch(() => {}); // aborted: thrown above
    }
  }
}
