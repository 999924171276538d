import type { ClientDuplexStream } from "@grpc/grpc-js";

import type { Connection, Limits } from "./connection.js";
import { RouterUnavailableError } from "./errors.js";
import type { StreamSignaturesResponse } from "./proto/eldr/v1/router.js";
import { METHODS } from "./requests.js";
import { within } from "./within.js";

/**
 * Sends a message and waits for its answer, as a unary call does, on a call that stays open. It opens
 * on first use, and again after it has broken. Messages take turns.
 */
export class SignatureStream {
  #last: Promise<void> = Promise.resolve();
  #open: OpenStream | undefined;

  constructor(private readonly connection: Connection) {}

  /** The answer to a request, or what the stream ended with. */
  async exchange(request: Buffer, limits: Limits): Promise<StreamSignaturesResponse> {
    const before = this.#last;
    let done = () => {};
    this.#last = new Promise((resolve) => (done = resolve));
    try {
      await within(before, limits);
      return await this.#ask(request, limits);
    } finally {
      void before.then(done);
    }
  }

  close(): void {
    this.#open?.close();
    this.#open = undefined;
  }

  async #ask(request: Buffer, limits: Limits): Promise<StreamSignaturesResponse> {
    if (this.#open?.isBroken) this.close(); // while it was idle
    this.#open ??= new OpenStream(await this.connection.stream(METHODS.streamSignatures, limits));
    try {
      return await within(this.#open.ask(request), limits);
    } catch (error) {
      this.close(); // a late answer would be taken for that of the next message
      throw error;
    }
  }
}

class OpenStream {
  isBroken = false;
  #answer: (answer: StreamSignaturesResponse) => void = () => {};
  #fail: (error: unknown) => void = () => {};

  constructor(private readonly call: ClientDuplexStream<Buffer, StreamSignaturesResponse>) {
    call.on("data", (answer: StreamSignaturesResponse) => this.#answer(answer));
    call.on("error", (error) => this.#break(error));
    // After an error, if there is one.
    call.on("end", () =>
      this.#break(new RouterUnavailableError("UNAVAILABLE", "the router ended the stream")),
    );
  }

  ask(request: Buffer): Promise<StreamSignaturesResponse> {
    return new Promise((resolve, reject) => {
      this.#answer = resolve;
      this.#fail = reject;
      this.call.write(request);
    });
  }

  close(): void {
    this.call.cancel();
  }

  #break(error: unknown): void {
    this.isBroken = true;
    this.#fail(error);
  }
}
