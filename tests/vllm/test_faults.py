"""Whatever goes wrong on the way from vLLM to the counts is noticed, and no wrong count is sent."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.vllm

ANY_STEP = ("skip", "stale", "physical", "repeated")


@pytest.fixture(scope="module")
def engine(model, router, tmp_path_factory):
    from watched_engine import running_engine

    folder = tmp_path_factory.mktemp("engine")
    with running_engine(model, router, folder, faulty(folder), max_num_seqs=8) as engine:
        yield engine


def faulty(log, fault="", **more):
    return {
        "kv_connector": "FaultyConnector",
        "kv_connector_module_path": "faulty_connector",
        "kv_connector_extra_config": {"log": str(log), "fault": fault, **more},
    }


def prompts(seed, count, tokens=100):
    rng = random.Random(seed)
    return [[rng.randrange(1, 250) for _ in range(tokens)] for _ in range(count)]


@pytest.mark.parametrize("fault", ANY_STEP)
def test_a_faulty_step_is_unknown_and_the_next_is_exact(engine, fault):
    """The faulty step computes two prompts; afterwards they are found in the prefix cache."""
    asked = prompts(ANY_STEP.index(fault), 2)
    spoiled = engine.run(asked, [1, 1], fault=fault)
    assert [ours[1:] for ours, _, _ in spoiled] == [(0, 100), (0, 100)]
    again = engine.run(asked, [1, 1])
    assert [output.num_cached_tokens for *_, output in again] == [96, 96]
    for ours, oracle, _ in again:  # of 100 tokens 96 are in blocks that were computed unseen
        assert ours[1:] == (4, 96)
        assert sum(map(sum, ours[0])) <= sum(map(sum, oracle[0]))
    cold = engine.run(asked, [1, 1], salts=["a", "b"])
    assert all(ours == oracle and ours[2] == 0 for ours, oracle, _ in cold)


def test_three_faulty_steps_in_a_row_end_the_capture_and_no_booking(engine, router):
    from wire import eventually

    before = len(router.requests("Release"))
    engine.answer(prompts(9, 3), [6] * 3, fault="skip")
    eventually(lambda: len(router.requests("Release")) == before + 3)
    assert not any(r.HasField("decode_counts") for r in router.requests("Release")[before:])
    outputs = engine.run(prompts(10, 3), [1] * 3)
    assert all("eldr" not in (output.kv_transfer_params or {}) for *_, output in outputs)


@pytest.mark.parametrize("fault", ["", "permuted", "slice"])
def test_the_start_up_probe(model, tmp_path, fault):
    """Rows that are mixed up look like any others; only asking twice tells."""
    from eldr.v1 import fleet_pb2
    from rig import Daemon, Engine, prompt, wait

    daemon = Daemon(tmp_path)
    eldr = {"router": daemon.target, "timeout": 5.0}
    log = tmp_path / "log"
    log.mkdir()
    engine = Engine("engine", model, tmp_path, "kv_producer", eldr, faulty(log, fault))
    try:
        engine.wait()
        status = wait(lambda: settled(daemon), 120, lambda: engine.log.read_text()[-3000:])
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda seed: said(engine, prompt(seed)), range(4)))
        if fault:
            assert status.state == fleet_pb2.CAPTURE_STATE_STOPPED
            assert "the start-up probe: " in status.reason
            assert answers == [{}] * 4
        else:
            assert (status.state, status.reason) == (fleet_pb2.CAPTURE_STATE_CAPTURING, "")
            assert all("counts" in answer for answer in answers)
            wait(lambda: tokens_told(daemon) == 4 * 300, 30)
    finally:
        engine.kill()
        daemon.kill()


def test_rows_that_begin_to_be_mixed_up_while_the_engine_serves(model, tmp_path):
    from eldr.v1 import fleet_pb2
    from rig import Daemon, Engine, prompt, wait

    daemon = Daemon(tmp_path)
    eldr = {"router": daemon.target, "timeout": 5.0, "probe_every": 0.5}
    log = tmp_path / "log"
    log.mkdir()
    begins = tmp_path / "begins"
    inner = faulty(log, "permuted", begins=str(begins))
    engine = Engine("engine", model, tmp_path, "kv_producer", eldr, inner)

    seeds = itertools.count()  # new prompts, or little of them would be computed

    def served():
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: said(engine, prompt(seed)), itertools.islice(seeds, 8)))
        status = settled(daemon)
        stopped = status and status.state == fleet_pb2.CAPTURE_STATE_STOPPED
        return status if stopped else None

    try:
        engine.wait()
        first = wait(lambda: settled(daemon), 120, lambda: engine.log.read_text()[-3000:])
        assert first.state == fleet_pb2.CAPTURE_STATE_CAPTURING
        begins.touch()
        status = wait(served, 180, lambda: engine.log.read_text()[-3000:])
        assert "while the engine served" in status.reason
        assert said(engine, prompt(next(seeds))) == {}
    finally:
        engine.kill()
        daemon.kill()


def said(engine, prompt):
    answer = engine.complete(prompt, 1, {"do_remote_decode": True})
    return (answer["kv_transfer_params"] or {}).get("eldr", {})


def workers(daemon):
    import grpc
    from eldr.v1 import fleet_pb2, fleet_pb2_grpc

    with grpc.insecure_channel(daemon.target) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        return stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=60).workers


def settled(daemon):
    """How the capture of the only worker stands, once it is READY."""
    from eldr.v1 import fleet_pb2

    ready = [w for w in workers(daemon) if w.state == fleet_pb2.WORKER_STATE_READY]
    return ready[0].capture if ready else None


def tokens_told(daemon):
    (worker,) = workers(daemon)
    return worker.capture.known_tokens
