"""The lines in the Node client's README place requests with the real daemon."""

import re
from pathlib import Path

import pytest
from daemon import running_daemon
from languages import needs_node
from node_consumer import NodeConsumer
from programs import node_package
from wire import Client

README = Path(__file__).parents[2] / "clients/node/README.md"
PROGRAM = """
%s

async function decodeAt(url: string, rank: number): Promise<string> {
  return `${url} ${rank}`;
}

async function run(id: string) {
%s
  console.log(answer);
}

async function hold(id: string) {
  const { signal } = new AbortController();
  const client = new RouterClient("127.0.0.1:50051", { timeout: 30_000 });
  const request = { model: "qwen3-30b-a3b", requestId: id };
  {
%s
    console.log(answer);
  }
  await client.close();
}

await run("r");
await hold("s");
"""


@pytest.mark.timeout(900)
@needs_node
def test_the_first_placement_takes_ten_lines(tmp_path):
    first, second = re.findall(r"```ts\n(.*?)```", README.read_text(), re.S)
    assert len(first.splitlines()) <= 10
    imports, body = first.split("\n\n", 1)
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("qwen3-30b-a3b", "d0")
        program = PROGRAM % (imports, body, second)
        # A busy machine may take longer than a scheduler would wait.
        program = program.replace('("127.0.0.1:50051")', '("127.0.0.1:50051", { timeout: 30_000 })')
        consumer = NodeConsumer(node_package(), tmp_path)
        consumer.compile(program.replace("127.0.0.1:50051", daemon.grpc))
        assert consumer.run().split() == ["http://d0", "0"] * 2
        assert client.booked("qwen3-30b-a3b") == 0
