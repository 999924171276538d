import { setTimeout as sleep } from "node:timers/promises";

import { ActivationCounts, type CallOptions, type Held, type RouterClient } from "eldr-client";

import { described } from "./answers.js";
import { encoded, request, type Command } from "./command.js";

type Does = (client: RouterClient, command: Command, options: CallOptions) => Promise<object>;

/** The protocol's calls, by their names. */
export const calls: Record<string, Does> = {
  async counts(_, command) {
    const bytes = ActivationCounts.encode(encoded(command.counts!)).finish();
    return { bytes: Buffer.from(bytes).toString("hex") };
  },

  async route(client, command, options) {
    return described(await client.route(request(command), options));
  },

  async place(client, command, options) {
    const { seconds = 0, ends, output_tokens = 0 } = command.body!;
    let placed: Held | undefined;
    const decode = async (held: Held) => {
      placed = held;
      held.outputTokens = output_tokens;
      await sleep(seconds * 1e3, undefined, { signal: options.signal! });
      if (ends === "raise") throw new PlannedError();
    };
    await client.place(request(command), decode, options).catch((error: unknown) => {
      if (!(error instanceof PlannedError)) throw error;
    });
    return described(placed!.placement);
  },

  async release(client, command, options) {
    const asked = { outcome: "COMPLETED", ...command };
    const result = await client.release(request(asked), options);
    return { result: result?.replace("RELEASE_RESULT_", "") ?? null };
  },

  async renew(client, command, options) {
    const leases = command.leases!.map(([requestId, attempt, leaseId]) => ({
      requestId,
      attempt,
      leaseId,
    }));
    const { unknown } = await client.renewLeases({ ...request(command), leases }, options);
    return { unknown: unknown.map(({ requestId, attempt }) => [requestId, attempt]) };
  },

  async register_signature(client, command, options) {
    const asked = { last: true, ...command };
    const answer = await client.registerSignature(request(asked), options);
    return { tokens_held: answer.tokensHeld, complete: answer.complete };
  },

  async stream_signature(client, command, options) {
    const asked = { last: true, ...command };
    const placement = await client.streamSignature(request(asked), options);
    return { placement: placement ? described(placement) : null };
  },
};

class PlannedError extends Error {}
