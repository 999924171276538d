"""An engine in this process's reach, its shim around a connector that logs what it sees."""

import contextlib
import pickle

BLOCK = 32


@contextlib.contextmanager
def running_engine(model, router, folder, inner, recorded=False, **options):
    """Its log and, if wanted, its recording lie in `folder`; `inner` is told of the log."""
    from vllm import LLM

    log, recording = folder / "log", folder / "recording"
    log.mkdir()
    recording.mkdir()
    inner["kv_connector_extra_config"]["log"] = str(log)
    eldr = {"router": router.target, "timeout": 5.0}
    if recorded:
        eldr["record"] = str(recording)
    transfer = {
        "kv_connector": "EldrConnector",
        "kv_connector_module_path": "eldr_vllm.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"eldr": eldr, "inner": inner},
    }
    shared = {
        "dtype": "float32",
        "block_size": BLOCK,
        "enforce_eager": True,
        "max_model_len": 640,
        "disable_log_stats": False,
    }
    llm = LLM(model=str(model), kv_transfer_config=transfer, **{**shared, **options})
    try:
        yield Engine(llm, log, recording)
    finally:
        llm.llm_engine.engine_core.shutdown()


class Engine:
    def __init__(self, llm, log, recording):
        self._llm, self._log, self._recording = llm, log, recording

    def run(self, prompts, max_tokens, salts=(), **params):
        """What the shim and what the oracle say of each request: (counts, known, unknown).

        Requests of different salts share no block of the prefix cache.
        """
        from rig import decode_counts
        from vllm import SamplingParams

        sampling = [
            SamplingParams(
                max_tokens=tokens,
                temperature=0,
                ignore_eos=True,
                extra_args={"kv_transfer_params": {"do_remote_decode": True, **params}},
            )
            for tokens in max_tokens
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        for given, salt in zip(inputs, salts, strict=False):
            given["cache_salt"] = salt
        outputs = self._llm.generate(inputs, sampling, use_tqdm=False)
        oracle = {}
        for name, counts, *tokens in self._read("?-0"):
            said = oracle.setdefault(name.rsplit("-", 1)[0], ([], *tokens))
            said[0].extend(counts.tolist())
        pairs = []
        for output in outputs:
            eldr = (output.kv_transfer_params or {}).get("eldr", {})
            if "counts" not in eldr:
                pairs.append((None, None, output))
                continue
            counts, message = decode_counts(eldr["counts"])
            ours = counts.tolist(), message.num_tokens, message.unknown_tokens
            pairs.append((ours, oracle[output.request_id], output))
        return pairs

    def answer(self, prompts, max_tokens, **params):
        """Write two answers to each prompt, as a decode engine would, until the last release."""
        from vllm import SamplingParams

        sampling = [
            SamplingParams(
                n=2,
                max_tokens=tokens,
                ignore_eos=True,
                extra_args={
                    "kv_transfer_params": {
                        "eldr": {"request_id": f"r{index}", "lease_id": "x", "num_sequences": 2},
                        **params,
                    }
                },
            )
            for index, tokens in enumerate(max_tokens)
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt in prompts]
        return self._llm.generate(prompts, sampling, use_tqdm=False)

    def answers(self):
        """The oracle's word: {booking: {(request, position): experts [layers, top_k]}}.

        A token that a preemption had computed again counts as it was first.
        """
        found = {}
        for booking, request, position, experts in self._read("answers-0-0"):
            found.setdefault(booking, {}).setdefault((request, position), experts)
        return found

    def recorded(self, column, rows):
        """What is recorded by now, as soon as there are so many rows of a column."""
        from rig import wait

        def read():
            read_engine_files.cache_clear()
            found = read_engine_files(self._recording) if any(self._recording.iterdir()) else None
            return found if found is not None and len(found[column]) >= rows else None

        from eldr_service.lab.recordings import read_engine_files

        return wait(read, 20)

    def _read(self, pattern):
        """The pipeline ranks' logs in order."""
        for path in sorted(self._log.glob(pattern)):
            with path.open("rb") as log:
                while log.peek(1):
                    yield pickle.load(log)

    def metric(self, name):
        return sum(m.value for m in self._llm.get_metrics() if m.name == name)
