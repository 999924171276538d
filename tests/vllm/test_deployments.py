"""Deployments that others publish: vLLM parses what to write; the inner connector is theirs."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

HERE = Path(__file__).parent
ENGINES = tomllib.loads((HERE / "deployments.toml").read_text())["engine"]
DOCS = (HERE.parents[1] / "docs/vllm.md").read_text()
COUNT = 13


def arguments(engine, transfer):
    from serve_arguments import parsed
    from vllm.engine.arg_utils import AsyncEngineArgs

    model, *words = re.findall(r"\{.*\}|\S+", engine["arguments"])
    args = parsed(["--model", model, *words, "--kv-transfer-config", transfer])
    return AsyncEngineArgs.from_cli_args(args)


def parallel_config(args):
    """What the engine core of the given rank knows of its place."""
    from vllm.config import ParallelConfig

    external = args.data_parallel_rank is not None
    local = int(args.data_parallel_size_local or 1)
    start = int(args.data_parallel_start_rank or 0)
    return lambda place: ParallelConfig(
        data_parallel_size=args.data_parallel_size,
        data_parallel_size_local=local,
        data_parallel_rank=args.data_parallel_rank if external else start + place,
        data_parallel_rank_local=place,
        data_parallel_external_lb=external,
        data_parallel_hybrid_lb=bool(args.data_parallel_hybrid_lb),
    )


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['number']}-{each['role']}")
def test_what_to_write(engine, monkeypatch):
    from eldr_vllm.delegation import inner_transfer_config
    from eldr_vllm.scheduler.address import Address
    from eldr_vllm.settings import Settings

    monkeypatch.setenv("POD_IP", "10.0.0.2")
    theirs = arguments(engine, engine["theirs"]).kv_transfer_config
    args = arguments(engine, engine["ours"])
    transfer = args.kv_transfer_config
    assert transfer.kv_connector_module_path == "eldr_vllm.connector"
    inner = inner_transfer_config(transfer)
    assert inner == dataclasses.replace(theirs, engine_id=inner.engine_id)

    settings = Settings.read(transfer.kv_connector_extra_config["eldr"], transfer.kv_role)
    assert settings.registered
    assert settings.role == engine["role"]
    address = Address.of(settings, parallel_config(args)(engine["dp_rank"]))
    assert (address.url, address.dp_rank) == (engine["url"], engine["dp_rank"])
    port = int(address.url.rpartition(":")[2])
    assert f"--port {port}" in engine["arguments"]


def test_each_has_its_row_in_the_documentation():
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", DOCS, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, COUNT + 1))
    assert {engine["number"] for engine in ENGINES} == set(range(1, COUNT + 1))
    assert all(cell.strip() for row in rows for cell in row)


def test_the_example_of_the_documentation():
    """The way from their argument to ours, as it is written there."""
    from eldr_vllm.delegation import inner_transfer_config
    from vllm.config.kv_transfer import KVTransferConfig

    blocks = re.findall(r"--kv-transfer-config '(\{.*?\})'", DOCS, re.DOTALL)
    configs = [KVTransferConfig(**json.loads(block)) for block in blocks]
    for theirs, ours in zip(configs[::2], configs[1::2], strict=True):
        inner = inner_transfer_config(ours)
        assert inner == dataclasses.replace(theirs, engine_id=inner.engine_id)
