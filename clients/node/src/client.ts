import type { MethodDefinition } from "@grpc/grpc-js";

import { Caller, type CallOptions } from "./call.js";
import { Chores, type Logger } from "./chores.js";
import { Connection, type TlsOptions } from "./connection.js";
import { fromFailure, fromStatus, RouterFaultError, RouterUnavailableError } from "./errors.js";
import { FallbackPool, type FallbackWorker } from "./fallback.js";
import { Held } from "./held.js";
import * as pb from "./proto/eldr/v1/router.js";
import { encode, METHODS, waits, waitsLeft } from "./requests.js";
import type { Release, Renewal, Route, SignatureChunk, StreamedChunk } from "./requests.js";
import { SignatureStream } from "./stream.js";

const DEFAULT_TIMEOUT_MS = 250;
/** `close` waits so long for releases that are still unsaid. */
const FAREWELL_MS = 1000;
/** A release on the way out has so long, whatever became of the caller. */
const RELEASE_TIMEOUT_MS = 1000;

export interface ClientOptions {
  /** Milliseconds of a call that brings no timeout of its own; 250 by default. */
  timeout?: number | undefined;
  /** A bearer token. Without TLS it goes out in the clear. */
  token?: string | undefined;
  /** `true`, or what TLS needs, where the router serves it. */
  tls?: boolean | TlsOptions | undefined;
  /** Workers that are known before the first placement names any. */
  fallbackWorkers?: readonly FallbackWorker[] | undefined;
  /** `console`'s stderr by default. */
  logger?: Logger | undefined;
}

/**
 * A connection to the router, for any number of calls at once. It connects on first use and reconnects
 * by itself. Close it, as its connections may keep the process alive.
 *
 * Every call rejects with an EldrError, with a TypeError for values that do not fit the contract, or
 * with its signal's reason.
 */
export class RouterClient implements AsyncDisposable {
  readonly #timeout: number;
  readonly #logger: Logger;
  readonly #connection: Connection;
  readonly #caller: Caller;
  readonly #chores: Chores;
  readonly #pool: FallbackPool;
  readonly #stream: SignatureStream;
  readonly #life = new AbortController();
  #closed: Promise<void> | undefined;

  /**
   * `target`: HOST:PORT, several of them with commas between them for replicas, or dns:///NAME:PORT
   * for all addresses of a name. RangeError: it is none of these, or the timeout is not positive.
   */
  constructor(target: string, options: ClientOptions = {}) {
    const { timeout = DEFAULT_TIMEOUT_MS, token, tls, fallbackWorkers = [] } = options;
    if (!(timeout > 0)) throw new RangeError(`timeout: expected more than 0 ms, found ${timeout}`);
    this.#timeout = timeout;
    this.#logger = options.logger ?? { info: console.error, warn: console.error };
    this.#connection = new Connection(target, token, tls === true ? {} : tls || undefined);
    const hands = { probe: this.#probe.bind(this), say: this.#say.bind(this) };
    const life = this.#life.signal;
    this.#chores = new Chores(hands, this.#logger, life);
    this.#caller = new Caller(timeout, this.#connection.several, this.#chores, life);
    this.#pool = new FallbackPool(fallbackWorkers);
    this.#stream = new SignatureStream(this.#connection);
  }

  /**
   * Picks a worker and books it. Release it when the decode has ended; or use `place`. When the router
   * does not answer in time, the placement is the client's own (`isFallback`) and books nothing.
   */
  async route(request: Route, options: CallOptions = {}): Promise<pb.Placement> {
    const whole = pb.RouteRequest.fromPartial(request);
    encode(METHODS.route, whole);
    const wasAsked = !this.#chores.isSilent && !options.signal?.aborted;
    try {
      const { placement } = await this.#caller.call({
        model: whole.model,
        wait: waits(whole),
        options,
        try: (limits, passed) => {
          const rest = { ...whole, ...waitsLeft(whole, passed) };
          return this.#connection.unary(METHODS.route, encode(METHODS.route, rest), limits);
        },
      });
      if (!placement) throw new RouterFaultError("OK", "an answer without a placement");
      this.#pool.learn(whole.model, placement);
      return placement;
    } catch (error) {
      const isSilent = isSilence(error);
      if (wasAsked && (isSilent || options.signal?.aborted)) this.#chores.disown(whole);
      if (!isSilent) throw error;
      const placement = this.#pool.place(whole);
      if (placement) return placement;
      const none = `no worker of ${whole.model} is known to fall back on`;
      throw new RouterUnavailableError(error.code, `${none} (${error.message})`);
    }
  }

  /**
   * `route` whose booking is kept alive until it is released: by `decode`'s end, with the outcome that
   * this tells, or by the one who gets it.
   */
  place<T>(
    request: Route,
    decode: (held: Held) => T | Promise<T>,
    options?: CallOptions,
  ): Promise<T>;
  place(request: Route, options?: CallOptions): Promise<Held>;
  async place<T>(
    request: Route,
    second: CallOptions | ((held: Held) => T | Promise<T>) = {},
    third: CallOptions = {},
  ): Promise<Held | T> {
    const options = typeof second === "function" ? third : second;
    const identity = pb.RouteRequest.fromPartial(request); // the caller may change its own meanwhile
    const placement = await this.route(request, options);
    const held = new Held(placement, identity, options.signal, {
      client: this,
      logger: this.#logger,
      life: this.#life.signal,
      say: this.#say.bind(this),
    });
    if (typeof second !== "function") return held;
    try {
      const answer = await second(held);
      await held.release();
      return answer;
    } catch (error) {
      await held.fail(error);
      throw error;
    }
  }

  /**
   * Ends a booking; twice is fine. Undefined where the router does not answer: the release is kept and
   * sent once it does.
   */
  async release(
    request: Release,
    options: CallOptions = {},
  ): Promise<pb.ReleaseResult | undefined> {
    const whole = pb.ReleaseRequest.fromPartial(request);
    encode(METHODS.release, whole);
    try {
      return (await this.#unary(METHODS.release, whole, options)).result;
    } catch (error) {
      const isUnheard = error instanceof RouterUnavailableError;
      if (isUnheard || options.signal?.aborted) this.#chores.keep(whole); // it must end anyway
      if (!isUnheard) throw error;
      return undefined;
    }
  }

  /** Keeps bookings alive; the answer names those that are not. */
  renewLeases(request: Renewal, options: CallOptions = {}): Promise<pb.RenewLeasesResponse> {
    const whole = pb.RenewLeasesRequest.fromPartial(request);
    return this.#unary(METHODS.renewLeases, whole, options);
  }

  /** Adds one chunk of a request's counts to what the router holds of it. */
  registerSignature(
    request: SignatureChunk,
    options: CallOptions = {},
  ): Promise<pb.RegisterSignatureResponse> {
    const whole = pb.RegisterSignatureRequest.fromPartial(request);
    return this.#unary(METHODS.registerSignature, whole, options);
  }

  /**
   * `registerSignature` by a stream that stays open. With `route` in the request, the request is
   * placed once the chunk is added, and that is the placement; it is never a fallback.
   */
  async streamSignature(
    request: StreamedChunk,
    options: CallOptions = {},
  ): Promise<pb.Placement | undefined> {
    const whole = pb.StreamSignaturesRequest.fromPartial(request);
    encode(METHODS.streamSignatures, whole);
    const { model, requestId, route } = whole;
    const wasAsked = !this.#chores.isSilent && !options.signal?.aborted;
    try {
      const { result } = await this.#caller.call({
        model,
        wait: waits(route),
        options,
        try: (limits, passed) => {
          const rest = route && { ...whole, route: { ...route, ...waitsLeft(route, passed) } };
          const bytes = encode(METHODS.streamSignatures, rest ?? whole);
          return this.#stream.exchange(bytes, limits);
        },
      });
      if (result?.$case === "status") throw fromStatus(result.status);
      if (result?.$case !== "placement") return undefined;
      this.#pool.learn(model, result.placement);
      return result.placement;
    } catch (error) {
      const isLost = isSilence(error) || options.signal?.aborted;
      if (route && wasAsked && isLost) this.#chores.disown({ ...route, model, requestId });
      throw error;
    }
  }

  /** Says what is still unsaid, for a second at most, and disconnects. */
  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    await this.#chores.finish(FAREWELL_MS);
    this.#life.abort();
    this.#stream.close();
    this.#connection.close();
  }

  async #unary<Q extends { model: string }, A>(
    method: MethodDefinition<Q, A>,
    request: Q,
    options: CallOptions,
  ): Promise<A> {
    const bytes = encode(method, request);
    return await this.#caller.call({
      model: request.model,
      wait: 0,
      options,
      try: (limits) => this.#connection.unary(method, bytes, limits),
    });
  }

  /**
   * It asks the very path that calls take, so that whatever hangs there keeps the router silent. Any
   * answer will do, an error too.
   */
  async #probe(model: string): Promise<boolean> {
    const request = { model, requestId: "eldr-client-probe", dryRun: true };
    const bytes = encode(METHODS.route, pb.RouteRequest.fromPartial(request));
    try {
      const until = Date.now() + this.#timeout;
      await this.#connection.unary(METHODS.route, bytes, { until, signal: this.#life.signal });
    } catch (error) {
      return !this.#life.signal.aborted && !(fromFailure(error) instanceof RouterUnavailableError);
    }
    return true;
  }

  async #say(release: Release): Promise<void> {
    try {
      await this.release(release, { timeout: RELEASE_TIMEOUT_MS });
    } catch (error) {
      this.#logger.warn(`the release of ${release.requestId} was refused: ${error}`);
    }
  }
}

function isSilence(error: unknown): error is RouterUnavailableError | RouterFaultError {
  return error instanceof RouterUnavailableError || error instanceof RouterFaultError;
}
