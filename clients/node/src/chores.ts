import { setTimeout as sleep } from "node:timers/promises";

import { ReleaseOutcome } from "./proto/eldr/v1/router.js";
import type { Release, Route } from "./requests.js";

const FIRST_PROBE_MS = 100;
const LAST_PROBE_MS = 250;
/** Releases that wait for the router to return; the oldest are left to their leases' expiry. */
const MAX_UNSAID = 10_000;

/** Where the client says what a person may want to know; `console`, pino and winston fit. */
export interface Logger {
  info(message: string): void;
  warn(message: string): void;
}

/** What the chores do by way of the client. */
export interface Hands {
  /** Asks the router about `model` and books nothing. Whether it answered. */
  probe(model: string): Promise<boolean>;
  /** Sends a release that no caller waits for. Never rejects. */
  say(release: Release): Promise<void>;
}

/** Finds a silent router again, and then says the releases that it has not heard. */
export class Chores {
  readonly #unsaid: Release[] = [];
  /** Of the call that found the router silent, until a probe is answered. */
  #silentFor: string | undefined;
  #running: Promise<void> | undefined;

  constructor(
    private readonly hands: Hands,
    private readonly logger: Logger,
    private readonly life: AbortSignal,
  ) {}

  /**
   * The router does not answer, so calls are spared their deadlines. One failure is enough, as it
   * costs little: a router that is well answers the first probe.
   */
  get isSilent(): boolean {
    return this.#silentFor !== undefined;
  }

  trip(model: string, error: Error): void {
    if (!this.isSilent) this.logger.warn(`the router does not answer; falling back (${error})`);
    this.#silentFor = model;
    this.#wake();
  }

  /** Has a release said once the router hears it. */
  keep(release: Release): void {
    if (this.#unsaid.length === MAX_UNSAID) this.#unsaid.shift();
    this.#unsaid.push(release);
    this.#wake();
  }

  /** Ends what may be booked without our knowing its lease. */
  disown({ model, requestId, attempt = 0, dryRun }: Route): void {
    if (!dryRun) this.keep({ model, requestId, attempt, outcome: ReleaseOutcome.CANCELLED });
  }

  /** Says what is unsaid, for so many milliseconds, unless the router is silent. */
  async finish(most: number): Promise<void> {
    if (!this.isSilent) await Promise.race([this.#running, sleep(most, undefined, { ref: false })]);
    const left = this.#unsaid.length;
    if (left > 0) this.logger.warn(`${left} releases are left to expire`);
  }

  #wake(): void {
    this.#running ??= this.#run().finally(() => (this.#running = undefined));
  }

  async #run(): Promise<void> {
    while ((this.isSilent || this.#unsaid.length > 0) && !this.life.aborted) {
      if (this.isSilent) await this.#find();
      const next = this.isSilent ? undefined : this.#unsaid.shift();
      if (next) await this.hands.say(next);
    }
  }

  async #find(): Promise<void> {
    for (let pause = FIRST_PROBE_MS; ; pause = Math.min(2 * pause, LAST_PROBE_MS)) {
      await sleep(pause, undefined, { ref: false });
      if (this.life.aborted) return;
      if (await this.hands.probe(this.#silentFor!)) break;
    }
    this.#silentFor = undefined;
    this.logger.info("the router answers again");
  }
}
