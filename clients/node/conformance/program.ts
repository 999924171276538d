/** The Node client's program for eldr-conformance. */
import { createInterface } from "node:readline";

import { RouterClient, type FallbackWorker } from "eldr-client";

import { calls } from "./calls.js";
import { failure } from "./answers.js";
import type { Command } from "./command.js";

let client: RouterClient;
const cancels = new Map<number, AbortController>();
const underWay = new Set<Promise<void>>();

function answer(id: number, said: object): void {
  console.log(JSON.stringify({ id, ...said }));
}

function open({ target, timeout, token, fallback_workers: given = [] }: Command): object {
  const perModel = Array.isArray(given) ? { "": given } : given;
  const fallbackWorkers: FallbackWorker[] = Object.entries(perModel).flatMap(([model, workers]) =>
    workers.map(([id, url, dpRank]) => ({ id, url, dpRank, model })),
  );
  client = new RouterClient(target!, {
    fallbackWorkers,
    ...(timeout !== undefined && { timeout: timeout * 1e3 }),
    ...(token !== undefined && { token }),
  });
  return { lacks: [] };
}

async function carryOut(command: Command): Promise<void> {
  const { id, call, of, timeout } = command;
  const cancel = new AbortController();
  cancels.set(id, cancel);
  try {
    if (call === "open") return answer(id, { result: open(command) });
    if (call === "cancel") {
      cancels.get(of!)!.abort();
      return answer(id, { result: {} });
    }
    const options = { signal: cancel.signal, ...(timeout && { timeout: timeout * 1e3 }) };
    const does = calls[call];
    if (!does) throw new Error(`no call of the protocol: ${call}`);
    answer(id, { result: await does(client, command, options) });
  } catch (error) {
    answer(id, { error: failure(error) });
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const doing = carryOut(JSON.parse(line) as Command).finally(() => underWay.delete(doing));
  underWay.add(doing);
}
await Promise.all(underWay);
await client!.close();
