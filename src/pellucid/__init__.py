"""Pellucid: a transformer library you can see through.

    from pellucid import AutoTokenizer, AutoModelForCausalLM, trace

Names are imported when they are first used, so that ``import pellucid`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pellucid.base.version import __version__

if TYPE_CHECKING:
    from pellucid.auto import AutoConfig, AutoTokenizer, open_executor, open_model, tokenizer_of
    from pellucid.causal_lm import AutoModelForCausalLM
    from pellucid.causal_lm.pipeline import pipeline
    from pellucid.causal_lm.seeds import set_seed
    from pellucid.config import ModelConfig
    from pellucid.explain.trace import trace
    from pellucid.generate.engine import Engine
    from pellucid.generate.generation_config import GenerationConfig
    from pellucid.generate.request import Request
    from pellucid.generate.streamers import TextIteratorStreamer, TextStreamer
    from pellucid.llama_cpp import Llama, LlamaGrammar
    from pellucid.sampling import SamplingParams

_WHERE = {
    "AutoConfig": "pellucid.auto",
    "AutoModelForCausalLM": "pellucid.causal_lm",
    "AutoTokenizer": "pellucid.auto",
    "Engine": "pellucid.generate.engine",
    "GenerationConfig": "pellucid.generate.generation_config",
    "Llama": "pellucid.llama_cpp",
    "LlamaGrammar": "pellucid.llama_cpp",
    "ModelConfig": "pellucid.config",
    "Request": "pellucid.generate.request",
    "SamplingParams": "pellucid.sampling",
    "TextIteratorStreamer": "pellucid.generate.streamers",
    "TextStreamer": "pellucid.generate.streamers",
    "open_executor": "pellucid.auto",
    "open_model": "pellucid.auto",
    "pipeline": "pellucid.causal_lm.pipeline",
    "set_seed": "pellucid.causal_lm.seeds",
    "tokenizer_of": "pellucid.auto",
    "trace": "pellucid.explain.trace",
}
__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "Engine",
    "GenerationConfig",
    "Llama",
    "LlamaGrammar",
    "ModelConfig",
    "Request",
    "SamplingParams",
    "TextIteratorStreamer",
    "TextStreamer",
    "__version__",
    "open_executor",
    "open_model",
    "pipeline",
    "set_seed",
    "tokenizer_of",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        from pellucid.base.elsewhere import pointer

        raise AttributeError(f"module 'pellucid' has no attribute {name!r}{pointer(name)}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
