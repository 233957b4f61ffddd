"""Step1, the language model of Step-Audio-EditX, as transformers classes with the published tensor names.

A LLaMA-like decoder without rotary embedding: attention adds ``-slope_h * sqrt(distance)`` to the scores (an
ALiBi of the square root), with grouped key/value heads. These classes define names, shapes and arithmetic, and
let transformers' tools (quantisers, ``generate``) work on the model; serving runs the same arithmetic over
preallocated slots, see ``model``.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast


class Step1Config(PretrainedConfig):
    """Sizes; the defaults are those of the published 3B model."""

    model_type = "step1"
    attribute_map = {"num_key_value_heads": "num_attention_groups"}

    def __init__(
        self,
        hidden_size: int = 3072,
        intermediate_size: int = 8192,
        num_attention_heads: int = 48,
        num_attention_groups: int = 4,
        num_hidden_layers: int = 32,
        vocab_size: int = 74752,
        rms_norm_eps: float = 1e-5,
        max_seq_len: int = 32768,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.num_attention_groups = num_attention_groups
        self.num_hidden_layers = num_hidden_layers
        self.vocab_size = vocab_size
        self.rms_norm_eps = rms_norm_eps
        self.max_seq_len = max_seq_len
        super().__init__(**kwargs)
        # The published config does not say, and transformers would tie lm_head to the embedding: noise comes out.
        self.tie_word_embeddings = tie_word_embeddings

    @property
    def head_dim(self) -> int:
        """Width of a head: 64 as published."""
        size: int = self.hidden_size // self.num_attention_heads
        return size


def slopes(heads: int) -> torch.Tensor:
    """ALiBi's slope of each head, float32 (heads,): powers of two, interleaved beyond the last power of two."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    rest = [2 ** (-4 * k / power) for k in range(1, 2 * (heads - power), 2)]
    return torch.tensor(first + rest, dtype=torch.float32)


def attention_bias(head_slopes: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """What is added to the scores: ``-slope * sqrt(i - j)``, -inf where the key lies ahead.

    head_slopes (heads,), positions (n_queries,) and (n_keys,) -> float32 (heads, n_queries, n_keys)
    """
    distance = (queries[:, None] - keys[None, :]).float()
    bias = head_slopes[:, None, None] * -distance.clamp(min=0).sqrt()
    return bias.masked_fill(distance < 0, float("-inf"))


class Step1RMSNorm(nn.Module):
    """Root mean square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight


class Step1Attention(nn.Module):
    """Causal attention with grouped heads; the bias carries mask and positions."""

    def __init__(self, config: Step1Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        grouped = config.num_attention_groups * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, grouped, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, grouped, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        projected = (proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj))
        # (batch, heads, length, head_dim)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in projected)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Step1MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Step1Layer(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: Step1Config, layer: int) -> None:
        super().__init__()
        self.self_attn = Step1Attention(config, layer)
        self.mlp = Step1MLP(config)
        self.input_layernorm = Step1RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Step1RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), bias, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Step1PreTrainedModel(PreTrainedModel):
    """What transformers needs to know: the config class and how fresh weights are drawn."""

    config_class = Step1Config
    base_model_prefix = "model"
    _no_split_modules = ["Step1Layer"]
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, Step1RMSNorm):
            nn.init.ones_(module.weight)


class Step1Model(Step1PreTrainedModel):
    """Embedding, layers and the final norm."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Step1Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Step1RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, cache: Cache | None = None
    ) -> torch.Tensor:
        """input_ids (batch, length), attention_mask (batch, past + length) of 0 and 1 -> (batch, length, hidden)."""
        past = cache.get_seq_length() if cache is not None else 0
        keys = torch.arange(past + input_ids.shape[1], device=input_ids.device)
        heads = slopes(self.config.num_attention_heads).to(input_ids.device)
        x = self.embed_tokens(input_ids)
        bias = attention_bias(heads, keys[past:], keys)[None].to(x.dtype)  # (1, heads, length, past + length)
        if attention_mask is not None and attention_mask.dim() == 2:
            bias = bias.masked_fill(attention_mask[:, None, None, :] == 0, torch.finfo(x.dtype).min)
        for layer in self.layers:
            x = layer(x, bias, cache)
        return self.norm(x)


class Step1ForCausalLM(Step1PreTrainedModel, GenerationMixin):
    """The language model; its head is never tied to the embedding."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__(config)
        self.model = Step1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_unused: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (batch, length or logits_to_keep, vocab) of the tokens that follow."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        hidden = self.model(input_ids, attention_mask, past_key_values)
        logits = self.lm_head(hidden[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


def register() -> None:
    """Let transformers' Auto classes build these for ``model_type`` step1, without any code of a checkpoint."""
    AutoConfig.register("step1", Step1Config, exist_ok=True)
    AutoModelForCausalLM.register(Step1Config, Step1ForCausalLM, exist_ok=True)
