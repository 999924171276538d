"""Trains the model on the CPU, in under 40 minutes.

The same texts, seed, thread count, torch and kind of processor give the same weights. Another
thread count sums in another order: the weights differ in their last bits, and then in more.
"""

import argparse
import hashlib
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from benchmarks.engines.tiny_moe import checkpoint, texts
from benchmarks.engines.tiny_moe.model import Shape, TinyMoE

SAVE_EVERY = 250
"""Steps, a few minutes' worth."""


class Windows:
    """Random windows of the kinds' texts, equally many of each kind in every batch."""

    def __init__(self, part: str, size: int, seed: int) -> None:
        self._size = size
        self.rng = np.random.default_rng(seed)
        self._tokens = {kind: self._joined(texts.read(kind, part)) for kind in texts.KINDS}
        digest = hashlib.sha256()
        for tokens in self._tokens.values():
            digest.update(tokens.tobytes())
        self.fingerprint = digest.hexdigest()

    @staticmethod
    def _joined(documents: list[str]) -> NDArray[np.int16]:
        """All documents end to end, one token per byte and one for the end of each document."""
        end = np.array([checkpoint.END_OF_TEXT], dtype=np.int16)
        parts = [np.frombuffer(d.encode(), dtype=np.uint8).astype(np.int16) for d in documents]
        return np.concatenate([tokens for part in parts for tokens in (part, end)])

    def draw(self, of_each: int) -> torch.Tensor:
        """int64 [kinds x of_each, size + 1]: a window includes the token after its last input."""
        span = np.arange(self._size + 1)
        rows = [
            tokens[self.rng.integers(len(tokens) - self._size, size=(of_each, 1)) + span]
            for tokens in self._tokens.values()
        ]
        return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def losses(model: TinyMoE, windows: torch.Tensor) -> torch.Tensor:
    """Cross entropies in nats, shape [windows, tokens]."""
    logits = model(windows[:, :-1])
    targets = windows[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(
        targets
    )


@torch.no_grad()
def bits_per_byte(model: TinyMoE, windows: torch.Tensor) -> dict[str, float]:
    """Bits per byte of each kind, in windows as `Windows.draw` lays them out."""
    found = torch.cat([losses(model, some).mean(dim=1) for some in windows.split(10)])
    of_kind = found.view(len(texts.KINDS), -1).mean(dim=1) / math.log(2)
    return dict(zip(texts.KINDS, of_kind.tolist(), strict=True))


def train(options: argparse.Namespace) -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    windows = Windows("train", options.window, options.seed)
    held_out = Windows("fit", options.window, seed=0).draw(of_each=20)
    model = TinyMoE(Shape())
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=True,
    )
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, texts {windows.fingerprint[:16]}", flush=True)
    first = resume(options.state, model, optimizer, windows) + 1 if options.state.exists() else 1
    started = time.monotonic()
    for step in range(first, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * schedule(step, options.steps)
        loss = losses(model, windows.draw(options.of_each)).mean()
        (loss + options.auxiliary * model.imbalance()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step}/{options.steps}  {loss.item() / math.log(2):.3f} bits per byte"
                f"  imbalance {model.imbalance().item():.2f}  {seconds:.0f} s",
                flush=True,
            )
        if step % SAVE_EVERY == 0 or step == options.steps:
            about = {name: str(value) for name, value in vars(options).items()}
            del about["out"], about["state"]
            about |= {"step": str(step), "texts": windows.fingerprint, "torch": torch.__version__}
            checkpoint.save(model, options.out, about, options.auxiliary)
            keep(options.state, step, model, optimizer, windows)
            found = bits_per_byte(checkpoint.load(options.out), held_out)
            print("held out: " + "  ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
    options.state.unlink()  # the next run starts from scratch


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: up over 100 steps, level, down to zero in the last 300.

    Until then it does not depend on `steps`: a stopped run can resume with another number.
    """
    return min(step / 100, 1.0, (steps - step) / 300)


def keep(
    path: Path, step: int, model: TinyMoE, optimizer: torch.optim.Optimizer, windows: Windows
) -> None:
    """Save all that the rest of the run depends on; a crash leaves the previous file or this."""
    fresh = path.with_suffix(".part")
    fresh.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"windows": windows.rng.bit_generator.state}, fresh)
    fresh.replace(path)


def resume(path: Path, model: TinyMoE, optimizer: torch.optim.Optimizer, windows: Windows) -> int:
    """Restore the state that `keep` saved; returns the number of steps done."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    windows.rng.bit_generator.state = state["windows"]
    return state["step"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.tiny_moe.train", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=checkpoint.CHECKPOINT, metavar="FOLDER")
    parser.add_argument(
        "--state",
        type=Path,
        default=texts.CACHE.parent / "training.pt",
        metavar="FILE",
        help="written every few minutes; if it exists, training resumes from it",
    )
    for name, default, meaning in (
        ("steps", 2300, "batches to train on"),
        ("of-each", 1, "windows of each kind in a batch"),
        ("window", 256, "tokens per window"),
        ("rate", 3e-3, "highest learning rate"),
        ("auxiliary", 1e-3, "weight of the load-balancing loss; Qwen3-30B-A3B's by default"),
        ("threads", 1, "torch threads"),
        ("seed", 0, "seed of weights and windows"),
    ):
        parser.add_argument(
            f"--{name}", type=type(default), default=default, help=f"{meaning} ({default})"
        )
    train(parser.parse_args())


if __name__ == "__main__":
    main()
