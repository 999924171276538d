import assert from "node:assert/strict";
import { test } from "node:test";

import { ActivationCounts, counts } from "eldr-client";

const ROWS = [
  [258, 2, 0, 4],
  [1, 261, 1, 1],
];

test("rows and typed arrays of all widths are the same counts", () => {
  const expected = counts(ROWS, { topK: 2 });
  assert.equal(expected.encoding?.$case, "denseU16");
  assert.deepEqual(
    counts(
      ROWS.map((row) => Uint16Array.from(row)),
      { topK: 2 },
    ),
    expected,
  );
  for (const Kind of [Uint16Array, Uint32Array, Int32Array]) {
    assert.deepEqual(counts(Kind.from(ROWS.flat()), { topK: 2, numExperts: 4 }), expected);
  }
});

test("what is encoded is decoded again", () => {
  const wide = counts([[3_000_000, 3_000_000]], { topK: 2, unknownTokens: 4_294_967_295 });
  assert.deepEqual(ActivationCounts.decode(ActivationCounts.encode(wide).finish()), wide);
});

for (const [what, rows, topK, expected] of [
  ["no row", [], 1, /at least one layer and one expert/],
  ["a count below zero", [[-1, 3]], 2, /whole numbers.*found -1 in row 0/],
  [
    "a fraction",
    [
      [1, 1],
      [0.5, 1.5],
    ],
    2,
    /whole numbers.*found 0.5 in row 1/,
  ],
  ["what does not fit 32 bits", [[4_294_967_296, 0]], 1, /4294967295, found 4294967296/],
  ["not a number", [[NaN, 1]], 1, /found NaN/],
  ["rows of two lengths", [[1, 1], [2]], 1, /expected 2 experts in row 1, found 1/],
  [
    "rows of two sums",
    [
      [2, 2],
      [2, 0],
    ],
    2,
    /found 4 in row 0 and 2 in row 1/,
  ],
  ["a sum that topK does not divide", [[2, 1]], 2, /tokens x 2, found 3/],
  ["topK above the experts", [[3]], 3, /topK: expected 1 to 1 experts, found 3/],
] as const) {
  test(`${what} is refused`, () => {
    assert.throws(() => counts(rows, { topK }), { name: "RangeError", message: expected });
  });
}

test("a flat array that is no whole number of rows is refused", () => {
  const flat = Uint16Array.from([1, 2, 3]);
  const message = /rows of numExperts = 2 counts, found 3 counts/;
  assert.throws(() => counts(flat, { topK: 1, numExperts: 2 }), { name: "RangeError", message });
});
