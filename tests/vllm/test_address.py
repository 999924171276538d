"""The rank that an engine is registered with is what the server at its url calls it."""

import pytest

pytestmark = pytest.mark.vllm

MODES = {
    # arguments of the server; ranks of the engine cores behind it, in its order
    "internal": (["--data-parallel-size", "4"], range(4)),
    "internal, head of two machines": (
        ["--data-parallel-size", "4", "--data-parallel-size-local", "2"],
        range(4),
    ),
    "hybrid, second machine": (
        [
            *("--data-parallel-size", "4", "--data-parallel-size-local", "2"),
            *("--data-parallel-hybrid-lb", "--data-parallel-start-rank", "2"),
        ],
        range(2, 4),
    ),
    "external": (["--data-parallel-size", "4", "--data-parallel-rank", "3"], range(3, 4)),
    "none": ([], range(1)),
}


def server_config(model, options):
    from serve_arguments import engine_config

    return engine_config(["--model", str(model), "--data-parallel-address", "127.0.0.1", *options])


@pytest.mark.parametrize("mode", MODES)
def test_the_server_takes_the_rank_for_this_engine(model, mode):
    from eldr_vllm.scheduler.address import Address
    from eldr_vllm.settings import Settings
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.input_processor import InputProcessor

    options, ranks = MODES[mode]
    config = server_config(model, options)
    server, parallel = InputProcessor(config), config.parallel_config
    settings = Settings.read({"url": "http://a:8000", "role": "decode"}, "kv_both")

    def accepts(rank):
        try:
            server.process_inputs(
                "id",
                {"prompt_token_ids": [1, 2]},
                SamplingParams(),
                ("generate",),
                data_parallel_rank=rank,
            )
        except VLLMValidationError:
            return False
        return True

    assert [rank for rank in range(6) if accepts(rank)] == list(range(len(ranks)))
    for place, rank in enumerate(ranks):  # as vLLM tells each engine core who it is
        parallel.data_parallel_index = parallel.data_parallel_rank = rank
        parallel.data_parallel_rank_local = place
        assert Address.of(settings, parallel).dp_rank == place
    ids = {Address.of(settings, parallel).worker_id for parallel.data_parallel_index in ranks}
    assert len(ids) == len(ranks)


@pytest.mark.parametrize(
    ("url", "rank", "expected"),
    [
        ("http://a:8000", 9, "http://a:8000"),
        ("http://a:{8200 + dp_rank % 8}", 9, "http://a:8201"),
        ("http://a:{8200+dp_rank}/", 9, "http://a:8209/"),
        ("http://decode-{dp_rank}.pool:8000", 9, "http://decode-9.pool:8000"),
        ("http://$POD:{8200 + dp_rank % 8}", 15, "http://10.0.0.1:8207"),
        ("http://${POD}:{8200 + dp_rank % 8}", 8, "http://10.0.0.1:8200"),
    ],
)
def test_a_url_for_each_rank(model, monkeypatch, url, rank, expected):
    from eldr_vllm.scheduler.address import Address
    from eldr_vllm.settings import Settings

    monkeypatch.setenv("POD", "10.0.0.1")
    parallel = server_config(model, []).parallel_config
    parallel.data_parallel_size, parallel.data_parallel_index = 16, rank
    address = Address.of(Settings.read({"url": url}, "kv_consumer"), parallel)
    assert address.url == expected
    assert address.worker_id == f"{expected.removeprefix('http://').rstrip('/')}/dp{rank}"


@pytest.mark.parametrize(
    "url",
    [
        "http://$NO_SUCH:8000",
        "http://${NO_SUCH}:8000",
        "http://a:{port}",
        "http://a:{8200 - dp_rank}",
    ],
)
def test_a_url_that_names_nothing(url):
    from eldr_vllm.guard import UnsupportedError
    from eldr_vllm.settings import Settings

    with pytest.raises(UnsupportedError, match="url: expected"):
        Settings.read({"url": url}, "kv_consumer")


@pytest.mark.parametrize(
    ("kv_role", "role", "registered", "prefills", "decodes"),
    [
        ("kv_producer", "", True, True, False),
        ("kv_consumer", "", True, False, True),
        ("kv_both", "", False, True, True),
        ("kv_both", "prefill", True, True, False),
        ("kv_both", "decode", True, False, True),
        ("kv_both", "both", True, True, True),
        ("kv_producer", "both", True, True, True),
    ],
)
def test_roles(kv_role, role, registered, prefills, decodes):
    from eldr_vllm.settings import Settings

    settings = Settings.read({"url": "http://a:8000", "role": role}, kv_role)
    assert (settings.registered, settings.prefills, settings.decodes) == (
        registered,
        prefills,
        decodes,
    )
    assert not Settings.read({"role": role}, kv_role).registered
