"""The model in torch, in `transformers`, and widened: one function."""

import argparse

import pytest

WHY = "needs torch, which comes with vLLM: `make test-vllm` runs this"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)

from safetensors.torch import load_file  # noqa: E402

from benchmarks.engines.tiny_moe import checkpoint, texts, train, widen  # noqa: E402

pytestmark = pytest.mark.vllm

TEXTS = (
    "def f(x):\n\treturn  x+1\n",
    "größe, où, año: здравствуй, 世界、こんにちは 𝄞\r\n",
    '{"a": [1, 2]}   <tags> don\'t',
)


def logits(folder, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(tokens).logits


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 257, (3, 200), generator=torch.Generator().manual_seed(0))


def test_transformers_computes_what_was_trained(tokens):
    with torch.no_grad():
        ours = checkpoint.load(checkpoint.CHECKPOINT)(tokens)
    torch.testing.assert_close(logits(checkpoint.CHECKPOINT, tokens), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [96, 128, 2048])
def test_wider_experts_compute_the_same(size, tokens, tmp_path):
    widen.widen(checkpoint.CHECKPOINT, tmp_path, size, torch.float32)
    # The zeros add nothing, but how a longer vector is added up is the build's own affair.
    for given in (tokens, tokens[:1, :1]):
        wide, narrow = logits(tmp_path, given), logits(checkpoint.CHECKPOINT, given)
        torch.testing.assert_close(wide, narrow, rtol=0, atol=1e-4)


def test_experts_are_widened_to_megabytes():
    size = widen.intermediate_size(12.6, 128, torch.float32)
    assert 3 * 128 * size * 4 == pytest.approx(12.6e6, rel=0.01)
    assert size % 32 == 0
    with pytest.raises(ValueError, match="have 96 neurons"):
        widen.widen(checkpoint.CHECKPOINT, checkpoint.CHECKPOINT, 64, torch.float32)


@pytest.mark.parametrize("text", TEXTS)
def test_a_token_is_a_byte(text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.CHECKPOINT)
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text


def test_a_conversation_is_its_messages():
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.CHECKPOINT)
    messages = [{"role": "user", "content": "int "}, {"role": "assistant", "content": "main"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "int main"


def test_training_is_the_same_again_and_after_a_stop(tmp_path, monkeypatch):
    documents = [f"{kind} {i * 7919}\n" * 40 for i, kind in enumerate(texts.KINDS)]
    monkeypatch.setattr(texts, "read", lambda kind, part: documents)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)

    def weights(out, steps=7, state="state"):
        options = argparse.Namespace(
            out=tmp_path / out, state=tmp_path / state, steps=steps, of_each=1, window=16,
            rate=3e-3, auxiliary=1e-3, threads=1, seed=0,
        )  # fmt: skip
        train.train(options)
        return load_file(tmp_path / out / checkpoint.WEIGHTS)

    once = weights("once")
    torch.testing.assert_close(weights("again"), once, rtol=0, atol=0)
    kept = {}
    real_keep = train.keep

    def stop_after_4(path, step, *rest):
        real_keep(path, step, *rest)
        if step == 4:
            kept["state"] = path.read_bytes()

    monkeypatch.setattr(train, "keep", stop_after_4)
    weights("stopped")
    (tmp_path / "state").write_bytes(kept["state"])
    torch.testing.assert_close(weights("stopped"), once, rtol=0, atol=0)
