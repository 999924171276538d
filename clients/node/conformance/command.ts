import { counts, duration, type ActivationCounts } from "eldr-client";

type Worker = [id: string, url: string, rank: number];

export interface Counts {
  array: number[][];
  top_k: number;
  unknown_tokens?: number;
  layer_offset?: number;
  num_layers?: number;
}

/** One line of the protocol, with the fields of the request beside these. */
export interface Command {
  id: number;
  call: string;
  of?: number;
  target?: string;
  timeout?: number;
  token?: string;
  fallback_workers?: Worker[] | Record<string, Worker[]>;
  counts?: Counts;
  decode_counts?: Counts;
  leases?: [requestId: string, attempt: number, leaseId: string][];
  body?: { seconds?: number; ends?: string; output_tokens?: number };
  [field: string]: unknown;
}

const OURS = ["id", "call", "of", "timeout", "leases", "body"];
const DURATIONS = ["wait_for_signature", "max_wait", "lease_ttl", "decode_duration"];

export function encoded(given: Counts): ActivationCounts {
  const { array, top_k: topK, unknown_tokens, layer_offset, num_layers } = given;
  return counts(array, {
    topK,
    ...(unknown_tokens !== undefined && { unknownTokens: unknown_tokens }),
    ...(layer_offset !== undefined && { layerOffset: layer_offset }),
    ...(num_layers !== undefined && { numLayers: num_layers }),
  });
}

/** The request that the command's other fields make, by the names that they have in TypeScript. */
export function request(fields: Record<string, unknown>): any {
  return Object.fromEntries(
    Object.entries(fields)
      .filter(([name]) => !OURS.includes(name))
      .map(([name, value]) => [camel(name), translated(name, value)]),
  );
}

function translated(name: string, value: any): unknown {
  if (DURATIONS.includes(name)) return duration(value * 1e3);
  if (name === "counts" || name === "decode_counts") return encoded(value);
  if (name === "outcome") return `RELEASE_OUTCOME_${value}`;
  if (name === "prefix_hashes") return value.map(BigInt);
  if (name === "route") return request(value);
  return value;
}

function camel(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}
