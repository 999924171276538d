import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, milliseconds, Placement, RouterClient } from "eldr-client";

test("durations keep their fractions, and whole milliseconds exactly", () => {
  assert.deepEqual(duration(1500), { seconds: 1n, nanos: 500_000_000 });
  assert.deepEqual(duration(0.25), { seconds: 0n, nanos: 250_000 });
  assert.deepEqual(duration(86_400_000), { seconds: 86_400n, nanos: 0 });
  for (const each of [0, 1, 999, 1001, 250.125]) assert.equal(milliseconds(duration(each)), each);
  assert.equal(milliseconds(undefined), 0);
});

for (const wrong of [-1, NaN, Infinity]) {
  test(`a duration of ${wrong} is refused`, () => {
    assert.throws(() => duration(wrong), { name: "RangeError", message: /0 or more milliseconds/ });
  });
}

test("64-bit integers arrive whole", () => {
  const partitionVersion = 2n ** 64n - 1n;
  const bytes = Placement.encode(Placement.fromPartial({ partitionVersion })).finish();
  assert.equal(Placement.decode(bytes).partitionVersion, partitionVersion);
});

test("numbers that do not fit the contract are refused before anything is sent", async () => {
  await using client = new RouterClient("127.0.0.1:1");
  for (const attempt of [-1, 0.5, 2 ** 32]) {
    const request = { model: "m", requestId: "r", attempt };
    for (const call of [client.route(request), client.place(request), client.release(request)]) {
      await assert.rejects(call, { name: "TypeError", message: /expected values.*uint ?32/i });
    }
  }
});

test("a closed client says so", async () => {
  const client = new RouterClient("127.0.0.1:1");
  await client.close();
  await assert.rejects(client.route({ model: "m", requestId: "r" }), /expected an open client/);
});

test("a signal that is aborted already keeps a call from being sent", async () => {
  await using client = new RouterClient("127.0.0.1:1");
  const signal = AbortSignal.abort(new Error("given up"));
  await assert.rejects(client.route({ model: "m", requestId: "r" }, { signal }), /given up/);
});
