"""StarCoder and SantaCoder: GPT-2 with one key-value head for all queries, or, ``multi_query`` false, one for each; q,
k and v then lie head by head. Source: Li et al. 2023 §5.3; transformers models/gpt_bigcode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.config import LayerConfig, ModelConfig
from pellucid.families import gpt2
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, Split, SplitHeads, Transpose

HARMLESS = (
    *gpt2.HARMLESS,
    "*softmax_in_fp32",
    "attention_type",
    "num_key_value_heads",
    "inference_runner",
    "*_runner_*",
    "pad_key_length",
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    one = keys.switch("multi_query", True)
    return gpt2.build(keys, num_kv_heads=1 if one else None, activation="gelu_pytorch_tanh")


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf = gpt2.to_hf(config) | {"architectures": ["GPTBigCodeForCausalLM"]}
    hf["multi_query"] = config.layers[0].mixer.num_kv_heads == 1
    del hf["scale_attn_by_inverse_layer_idx"]
    return hf


def _shared(layer: LayerConfig) -> bool:
    return layer.mixer.num_kv_heads == 1


def _upright(rule: Rule) -> Iterator[Rule]:
    """GPT-2's rule for a matrix that does not lie; of q, k and v in one, one for either order."""
    steps = tuple(step for step in rule.transforms if not isinstance(step, Transpose))
    if not any(isinstance(step, Split) for step in steps):
        yield replace(rule, transforms=steps)
        return
    yield replace(rule, transforms=steps, when=_shared)
    yield replace(rule, transforms=(SplitHeads(),), when=lambda layer: not _shared(layer))


WEIGHTS = tuple(one for rule in gpt2.WEIGHTS for one in _upright(rule))
IGNORED = gpt2.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    metadata.expect("starcoder.attention.head_count_kv", 1, "StarCoder has one key-value head")
    return gpt2.common_hf(metadata, tensors, "starcoder") | {"model_type": "gpt_bigcode"}


GGUF = GGUF(architecture="starcoder", hf=gguf_hf, weights=gpt2.GGUF.weights, harmless=gpt2.GGUF.harmless)

TINY = gpt2.TINY | {"model_type": "gpt_bigcode"}
VARIANTS = {name: gpt2.VARIANTS[name] for name in ("untied", "unscaled", "narrow", "gelu")} | {
    "multi_head": {"multi_query": False}
}
