import type { ActivationCounts, SparseCounts } from "./proto/eldr/v1/activation.js";

/** What rows of counts do not say by themselves. */
export interface CountsOptions {
  /** How many experts each token picks in each layer. */
  topK: number;
  /** Prompt tokens whose experts could not be known; they are in no row. */
  unknownTokens?: number | undefined;
  /** The first layer present, for a pipeline rank that sends its own. */
  layerOffset?: number | undefined;
  /** Layers of the whole model; `layerOffset` and the rows together by default. */
  numLayers?: number | undefined;
}

/** Counts of all layers, one row after the other. */
export type FlatCounts = Uint8Array | Uint16Array | Uint32Array | Int32Array;

type Rows = readonly ArrayLike<number>[];

/**
 * How often the tokens of a prefill, or of a part of it, picked each expert, encoded dense or sparse,
 * whichever is smaller.
 *
 * One row per MoE layer that is present, one count per logical routed expert; a flat array has rows
 * of `numExperts` each. Each row sums to tokens x `topK`. RangeError: the rows do not fit together.
 */
export function counts(rows: Rows, options: CountsOptions): ActivationCounts;
export function counts(
  flat: FlatCounts,
  options: CountsOptions & { numExperts: number },
): ActivationCounts;
export function counts(
  given: Rows | FlatCounts,
  options: CountsOptions & { numExperts?: number },
): ActivationCounts {
  const rows = ArrayBuffer.isView(given) ? split(given, options.numExperts ?? 0) : given;
  const numExperts = rows[0]?.length ?? 0;
  if (numExperts === 0) {
    throw new RangeError("counts: expected at least one layer and one expert, found none");
  }
  const { topK, unknownTokens = 0, layerOffset = 0 } = options;
  if (!Number.isInteger(topK) || topK < 1 || topK > numExperts) {
    throw new RangeError(`topK: expected 1 to ${numExperts} experts, found ${topK}`);
  }
  const sums = rows.map((row, index) => sumOf(row, index, numExperts));
  const first = sums[0]!;
  const wrong = sums.findIndex((sum) => sum !== first || sum % topK !== 0);
  if (wrong >= 0) {
    throw new RangeError(
      `counts: expected each row to sum to tokens x ${topK}, ` +
        `found ${first} in row 0 and ${sums[wrong]} in row ${wrong}`,
    );
  }
  return {
    numLayers: options.numLayers ?? layerOffset + rows.length,
    layerOffset,
    layersPresent: rows.length,
    numExperts,
    topK,
    numTokens: first / topK,
    unknownTokens,
    encoding: encode(rows, numExperts),
  };
}

function split(flat: FlatCounts, numExperts: number): Rows {
  if (!Number.isInteger(numExperts) || numExperts < 1 || flat.length % numExperts !== 0) {
    throw new RangeError(
      `counts: expected rows of numExperts = ${numExperts} counts, found ${flat.length} counts`,
    );
  }
  return Array.from({ length: flat.length / numExperts }, (_, row) =>
    flat.subarray(row * numExperts, (row + 1) * numExperts),
  );
}

function sumOf(row: ArrayLike<number>, index: number, numExperts: number): number {
  if (row.length !== numExperts) {
    throw new RangeError(
      `counts: expected ${numExperts} experts in row ${index}, found ${row.length}`,
    );
  }
  let sum = 0;
  for (let expert = 0; expert < numExperts; expert++) {
    const count = row[expert]!;
    if (count >>> 0 !== count) {
      throw new RangeError(
        `counts: expected whole numbers from 0 to 4294967295, found ${count} in row ${index}`,
      );
    }
    sum += count;
  }
  return sum;
}

function encode(rows: Rows, numExperts: number): ActivationCounts["encoding"] {
  const sparse: SparseCounts = { index: [], count: [] };
  let size = 0;
  let most = 0;
  rows.forEach((row, layer) => {
    for (let expert = 0; expert < numExperts; expert++) {
      const count = row[expert]!;
      if (count === 0) continue;
      const index = layer * numExperts + expert;
      sparse.index.push(index);
      sparse.count.push(count);
      size += varint(index) + varint(count);
      most = Math.max(most, count);
    }
  });
  if (most === 0) return undefined; // no tokens: the contract lets the encoding be unset
  const width = most > 0xffff ? 4 : 2;
  const bytes = new Uint8Array(rows.length * numExperts * width);
  if (size < bytes.length) return { $case: "sparse", sparse };
  const view = new DataView(bytes.buffer);
  sparse.index.forEach((index, at) => {
    if (width === 2) view.setUint16(index * 2, sparse.count[at]!, true);
    else view.setUint32(index * 4, sparse.count[at]!, true);
  });
  return width === 2
    ? { $case: "denseU16", denseU16: bytes }
    : { $case: "denseU32", denseU32: bytes };
}

/** Bytes of a value in protobuf's encoding: one for every seven bits. */
function varint(value: number): number {
  return Math.max(Math.ceil((32 - Math.clz32(value)) / 7), 1);
}
