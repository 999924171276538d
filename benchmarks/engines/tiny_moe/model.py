"""A Qwen3-MoE in plain torch, fast enough to train on two cores.

`transformers` and vLLM compute the same logits from the files that `checkpoint.save` writes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 torch's own custom
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The model's sizes; the field names are those of `transformers.Qwen3MoeConfig`."""

    vocab_size: int = 257  # bytes, and the end of a text
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    num_experts: int = 32
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 96
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        hidden, dim = shape.hidden_size, shape.head_dim
        queries, keys = shape.num_attention_heads * dim, shape.num_key_value_heads * dim
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        self.q_norm = nn.RMSNorm(dim, shape.rms_norm_eps)
        self.k_norm = nn.RMSNorm(dim, shape.rms_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Causal attention over x [sequences, tokens, hidden]."""
        apart = (*x.shape[:2], -1, self.shape.head_dim)
        queries = rotate(self.q_norm(self.q_proj(x).view(apart)).transpose(1, 2), *rotary)
        keys = rotate(self.k_norm(self.k_proj(x).view(apart)).transpose(1, 2), *rotary)
        values = self.v_proj(x).view(apart).transpose(1, 2)
        shared = self.shape.num_attention_heads // self.shape.num_key_value_heads
        keys, values = (t.repeat_interleave(shared, dim=1) for t in (keys, values))
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """The router and its experts; remembers what it chose."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        experts, hidden, wide = shape.num_experts, shape.hidden_size, shape.moe_intermediate_size
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * wide, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, wide))
        self.chosen: Tensor | None = None  # [tokens, top_k] of the last forward
        self.imbalance: Tensor | None = None  # of the last forward; top_k when perfectly balanced

    def forward(self, x: Tensor) -> Tensor:
        """Weighted outputs of each token's experts; x is [tokens, hidden]."""
        experts, top_k = self.shape.num_experts, self.shape.num_experts_per_tok
        probabilities = self.gate(x).softmax(dim=-1)
        weights, self.chosen = probabilities.topk(top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        flat = self.chosen.flatten()
        order = flat.argsort(stable=True)
        per_expert = flat.bincount(minlength=experts)
        # The loss of Switch Transformers over the whole batch, as in Qwen3: the batch must be
        # balanced, not each text.
        used = per_expert / len(x)
        self.imbalance = experts * (used * probabilities.mean(dim=0)).sum()
        token = order // top_k
        outputs = [
            F.linear(swiglu(F.linear(rows, gate_up)), down)
            for rows, gate_up, down in zip(
                x.index_select(0, token).split(per_expert.tolist()),
                self.gate_up_proj.unbind(),
                self.down_proj.unbind(),
                strict=True,
            )
        ]
        weighted = torch.cat(outputs) * weights.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(x).index_add(0, token, weighted)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Experts(shape)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary)
        return x + self.mlp(self.post_attention_layernorm(x).flatten(0, 1)).view_as(x)


class TinyMoE(nn.Module):
    """Parameters have the names of `Qwen3MoeForCausalLM`, but experts are stacked."""

    def __init__(self, shape: Shape, initial_std: float = 0.05) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # Additions to the residual stream start smaller in a deeper model.
                adds = name.endswith(("o_proj.weight", "down_proj"))
                shrink = (2 * shape.num_hidden_layers) ** -0.5 if adds else 1.0
                nn.init.normal_(parameter, std=initial_std * shrink)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [sequences, tokens, vocabulary] of tokens [sequences, tokens]."""
        x = self.embed_tokens(tokens)
        rotary = self._rotary(tokens.shape[1])
        for layer in self.layers:
            x = layer(x, rotary)
        return self.lm_head(self.norm(x))

    def imbalance(self) -> Tensor:
        """Mean over layers of the last forward's load-balancing loss."""
        return torch.stack([layer.mlp.imbalance for layer in self.layers]).mean()

    def _rotary(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [tokens, head_dim] of the positions' angles."""
        even = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float32)
        frequencies = 1.0 / self.shape.rope_theta ** (even / self.shape.head_dim)
        angles = torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary position embedding of x [..., tokens, head_dim], halves paired."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


def swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
