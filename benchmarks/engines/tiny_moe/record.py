"""Records which experts the model's tokens are routed to: makes `lab/simulation/sample.npz`.

Each round has one request of each kind of text. Its prompt is a piece of a held-out file; the
answer is sampled from the model itself. `transformers` runs the model, in float32.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.engines.tiny_moe import checkpoint, texts
from eldr_service.core.geometry import ModelGeometry
from eldr_service.lab import simulation
from eldr_service.lab.recordings import Recording

SAMPLE = Path(simulation.__file__).parent / "sample.npz"


class Router:
    """The experts that the model's own routers chose in the last forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._chosen: list[torch.Tensor] = [torch.empty(0)] * len(model.model.layers)
        for i, layer in enumerate(model.model.layers):
            layer.mlp.gate.register_forward_hook(self._keep(i))

    def _keep(self, layer: int) -> Callable[..., None]:
        def hook(_gate: object, _input: object, output: tuple[torch.Tensor, ...]) -> None:
            self._chosen[layer] = output[2]  # [tokens, top_k], after logits and weights

        return hook

    def expert_ids(self) -> NDArray[np.uint8]:
        """Shape [tokens, layers, top_k]."""
        return torch.stack(self._chosen, dim=1).numpy().astype(np.uint8)


def answers(
    model: PreTrainedModel, prompts: list[str], tokens: int, temperature: float
) -> list[torch.Tensor]:
    """Each prompt and its answer as tokens; all prompts must have the same number of bytes."""
    batch = torch.tensor([list(prompt.encode()) for prompt in prompts])
    sequences = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        max_new_tokens=tokens,
        min_new_tokens=16,
        pad_token_id=checkpoint.END_OF_TEXT,
    )
    ended = (sequences[:, batch.shape[1] :] == checkpoint.END_OF_TEXT).int()
    # Up to the end of the text, without the last token, which is no step's input.
    lengths = torch.where(ended.any(dim=1), ended.argmax(dim=1) + 1, ended.shape[1])
    return [s[: batch.shape[1] + n - 1] for s, n in zip(sequences, lengths.tolist(), strict=True)]


@torch.no_grad()
def record(model: PreTrainedModel, options: argparse.Namespace) -> Recording:
    """Half of the rounds with prompts of the part `fit`, then half with those of `serve`."""
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    router = Router(model)
    parts, lengths, prefill_len, domain = [], [], [], []
    for part in ("fit", "serve"):
        sizes = rng.integers(96, 160, size=options.rounds // 2, endpoint=True).tolist()
        prompts = [texts.prompts(kind, part, sizes) for kind in texts.KINDS]
        for size, of_round in zip(sizes, zip(*prompts, strict=True), strict=True):
            tokens = int(rng.integers(64, 144, endpoint=True))
            sequences = answers(model, list(of_round), tokens, options.temperature)
            for kind, sequence in zip(texts.KINDS, sequences, strict=True):
                model(sequence[None])
                parts.append(router.expert_ids())
                lengths.append(len(sequence))
                prefill_len.append(size)
                domain.append(kind)
            print(f"{part}: {len(parts)} requests", flush=True)
    ids = np.concatenate(parts)
    return Recording(
        ModelGeometry(ids.shape[1], model.config.num_experts, ids.shape[2]),
        np.array(domain),
        expert_ids=ids,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prefill_len=np.array(prefill_len, dtype=np.int64),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.tiny_moe.record", description=__doc__
    )
    parser.add_argument("--model", type=Path, default=checkpoint.CHECKPOINT, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=SAMPLE, metavar="FILE.npz")
    parser.add_argument("--rounds", type=int, default=48, help="rounds of ten requests (48)")
    parser.add_argument("--temperature", type=float, default=0.8, help="sampling temperature (0.8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    recording = record(model, options)
    recording.save(options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
