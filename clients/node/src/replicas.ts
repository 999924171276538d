import { lookup } from "node:dns/promises";

import { Client } from "@grpc/grpc-js";

import type { Addresses } from "./addresses.js";
import type { Limits } from "./connection.js";
import { RouterUnavailableError } from "./errors.js";
import { Replica, type Terms } from "./replica.js";
import { within } from "./within.js";

/** A name's addresses are asked for again after a loss, and so often anyway. */
const RESOLVE_AGAIN_MS = 30_000;
/** But no more often than this. */
const RESOLVE_PAUSE_MS = 2000;

/** The router's addresses. Calls take turns among those that are ready. */
export class Replicas {
  #single: Client | undefined;
  #all = new Map<string, Replica>();
  #turn = 0;
  #waiting: (() => void)[] = [];
  #resolving: Promise<void> | undefined;
  #resolvedAt = -Infinity;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(
    private readonly addresses: Addresses,
    several: boolean,
    private readonly terms: Terms,
  ) {
    if ("targets" in addresses && !several) {
      this.#single = new Client(addresses.targets[0]!, terms.credentials, terms.options);
    }
  }

  /** Where the next try goes. Waits while none is ready but one may soon be. */
  async pick(limits: Limits): Promise<Client> {
    if (this.#single) return this.#single;
    await this.#begin(limits);
    for (;;) {
      const all = [...this.#all.values()];
      const ready = all.filter((each) => each.isReady);
      if (ready.length > 0) return ready[this.#turn++ % ready.length]!.client;
      if (!all.some((each) => each.isComing)) {
        throw new RouterUnavailableError("UNAVAILABLE", `none of ${all.length} replicas serves`);
      }
      await within(new Promise<void>((changed) => this.#waiting.push(changed)), limits);
    }
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#single?.close();
    for (const replica of this.#all.values()) replica.close();
    this.#all.clear();
  }

  async #begin(limits: Limits): Promise<void> {
    if (this.#all.size > 0) return;
    if ("targets" in this.addresses) this.#set(this.addresses.targets);
    else await within(this.#resolve(), limits);
  }

  #set(targets: readonly string[]): void {
    if (this.#isClosed) return;
    const gone = new Set(this.#all.keys());
    for (const target of targets) {
      if (gone.delete(target) || this.#all.has(target)) continue;
      const changed = (replica: Replica) => this.#onChange(replica);
      this.#all.set(target, new Replica(target, this.terms, changed));
    }
    for (const target of gone) {
      this.#all.get(target)!.close();
      this.#all.delete(target);
    }
    this.#wake();
  }

  #onChange(replica: Replica): void {
    this.#wake();
    if (replica.isLost && "name" in this.addresses) this.#resolveSoon(RESOLVE_PAUSE_MS);
  }

  #wake(): void {
    for (const waiting of this.#waiting.splice(0)) waiting();
  }

  #resolve(): Promise<void> {
    return (this.#resolving ??= this.#lookUp().finally(() => (this.#resolving = undefined)));
  }

  async #lookUp(): Promise<void> {
    if (!("name" in this.addresses)) return;
    const { name, port } = this.addresses;
    this.#resolvedAt = Date.now();
    try {
      const found = await lookup(name.replace(/^\[|\]$/g, ""), { all: true });
      this.#set(
        found.map(({ address, family }) =>
          family === 6 ? `dns:[${address}]:${port}` : `dns:${address}:${port}`,
        ),
      );
    } catch (error) {
      if (this.#all.size === 0) {
        throw new RouterUnavailableError("UNAVAILABLE", `${name} has no address: ${error}`);
      }
    } finally {
      this.#resolveSoon(RESOLVE_AGAIN_MS);
    }
  }

  #resolveSoon(pause: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    const again = () => void this.#resolve().catch(() => {}); // without an address a call says so
    this.#timer = setTimeout(again, Math.max(this.#resolvedAt + pause - Date.now(), 0)).unref();
  }
}
