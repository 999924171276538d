"""The Node client as it is published: what the package has, what its types allow, its own tests."""

import json
from pathlib import Path

import pytest
from languages import needs_node
from node_consumer import NodeConsumer, run
from programs import node_package

pytestmark = [needs_node, pytest.mark.timeout(900)]

# A line below `@ts-expect-error` must not compile, every other one must.
TYPES = """
import {
  counts, duration, PlacementReason, RefusedError, ReleaseOutcome, RouterClient,
  type Held, type Placement,
} from "eldr-client";

export async function typed(client: RouterClient, rows: number[][], flat: Uint16Array) {
  const request = { model: "m", requestId: "r" };
  const placement: Placement = await client.route({
    ...request,
    attempt: 1,
    counts: counts(rows, { topK: 2 }),
    maxWait: duration(250),
    labels: { domain: "code" },
  });
  const version: bigint = placement.partitionVersion;
  const similarity: number | undefined = placement.similarity;
  const isPinned: boolean = placement.reason === PlacementReason.PINNED;
  const held: Held = await client.place(request, { timeout: 100 });
  const length: number = await client.place(request, async ({ url }) => url.length);
  const { signal } = new AbortController();
  await client.release({ ...request, outcome: ReleaseOutcome.FAILED }, { signal });
  // @ts-expect-error a request has an id
  await client.route({ model: "m" });
  // @ts-expect-error an outcome is one of the contract's
  await client.release({ ...request, outcome: "BROKEN" });
  // @ts-expect-error a 64-bit integer is no number
  const lost: number = placement.partitionVersion;
  // @ts-expect-error a similarity may be unset
  const certain: number = placement.similarity;
  // @ts-expect-error a flat array needs the number of experts
  counts(flat, { topK: 2 });
  // @ts-expect-error no such field
  await client.route({ ...request, atempt: 1 });
  try {
    await held.release(ReleaseOutcome.COMPLETED);
  } catch (error) {
    if (error instanceof RefusedError) console.log(error.field.length + (error.retryAfter ?? 0));
  }
  return { version, similarity, isPinned, length, lost, certain };
}
"""


@pytest.fixture(scope="module")
def consumer(tmp_path_factory):
    return NodeConsumer(node_package(), tmp_path_factory.mktemp("consumer"))


def test_the_package_has_what_is_used_and_no_more(consumer):
    package = node_package()
    source = package / "src"
    modules = [path.relative_to(package).with_suffix("") for path in source.rglob("*.ts")]
    compiled = {f"dist/{path}{suffix}" for path in modules for suffix in (".js", ".d.ts")}
    packed = {each["path"] for each in consumer.packed["files"]}
    assert packed == compiled | {"LICENSE", "README.md", "package.json"}
    described = json.loads((package / "package.json").read_text())
    entry = described["exports"]["."]
    assert {entry["types"], entry["default"], described["types"]} <= {
        f"./{path}" for path in packed
    }
    assert set(described["dependencies"]) == {"@bufbuild/protobuf", "@grpc/grpc-js"}


def test_its_types_allow_what_the_contract_does(consumer):
    consumer.compile(TYPES)


def test_no_lock_file_names_a_registry():
    lock = Path(__file__).parents[2] / "clients/node/package-lock.json"
    assert "resolved" not in lock.read_text()


def test_its_own_tests_pass():
    said = run("npm", "test", cwd=node_package())
    assert "# fail 0" in said
    assert "# pass 0" not in said
