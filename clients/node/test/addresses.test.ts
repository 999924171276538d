import assert from "node:assert/strict";
import { test } from "node:test";

import { RouterClient } from "eldr-client";

for (const target of [
  "127.0.0.1:50051",
  "eldr:1",
  "dns:65535",
  "[::1]:50051",
  "10.0.0.1:50051, 10.0.0.2:50051",
  "dns:///eldr:50051",
  "dns:eldr:50051",
  "unix:/run/eldr.sock",
]) {
  test(`${target} is an address`, () => new RouterClient(target).close());
}

for (const target of [
  "",
  "eldr",
  "eldr:0",
  "eldr:65536",
  ":1",
  "a:1,",
  "::1:50051",
  "xds:///a:1",
]) {
  test(`"${target}" is no address`, () => {
    const message = /expected HOST:PORT with a port from 1 to 65535.*; found "/;
    assert.throws(() => new RouterClient(target), { name: "RangeError", message });
  });
}

test("a timeout is positive", () => {
  assert.throws(() => new RouterClient("eldr:1", { timeout: 0 }), /more than 0 ms, found 0/);
});
