"""``from_pretrained`` and ``from_config`` as Hugging Face users know them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from pellucid.auto import AutoConfig, Name, open_model
from pellucid.base.errors import ConfigError
from pellucid.base.notice import notice
from pellucid.causal_lm.loading import Loading
from pellucid.causal_lm.model import CausalLM
from pellucid.causal_lm.settings import idle
from pellucid.checkpoint.open import Checkpoint
from pellucid.checkpoint.weights import Weights
from pellucid.config import ModelConfig
from pellucid.families import family_of
from pellucid.families.hf_config import HFConfig
from pellucid.model.load import choose_device, choose_dtype, load_weights, to_array
from pellucid.model.quantized import QUANTIZED


class AutoModelForCausalLM:
    """A model by its name, or fresh."""

    @staticmethod
    def from_pretrained(
        name: Name | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        quantize: str | None = None,
        revision: str | None = None,
        offline: bool = False,
        **habits: Any,
    ) -> Any:
        """The model behind a name, in eval mode; its weights want gradients, so look at its numbers under
        ``torch.no_grad()``. An adapter's folder gives its base with the adapter merged in.

        ``quantize`` ("q8", "q4") keeps the layers' matrices in blocks of 8 or 4 bits, or in the blocks that a GGUF file
        has them in: an eighth of the memory, frozen, decoded for each product. It is what QLoRA trains on; to answer
        quickly, take the native executor. ``trust_remote_code`` is accepted and never needed: no code from a model
        folder is executed. ``habits`` are transformers' other words (``torch_dtype``, ``device_map``, …; see
        ``causal_lm/loading.py``). Raises: ModelNotFoundError, CheckpointError, WeightsError, UnsupportedError or
        ConfigError, each with place and remedy; TypeError for an argument that nobody knows.
        """
        asked = Loading.of(
            name, dtype=dtype, device=device, quantize=quantize, revision=revision, offline=offline, habits=habits
        )
        if asked.quantize not in (None, *QUANTIZED):
            raise ConfigError(f"quantize={asked.quantize!r} is not known", expected=" or ".join(QUANTIZED))
        if asked.state_dict is not None:
            model = _from_state(asked)
        else:
            where = asked.where
            checkpoint = open_model(where.name, revision=where.revision, offline=where.offline, access=where.access)
            if asked.safetensors_only and checkpoint.kind not in ("safetensors", "sharded"):
                raise ConfigError("use_safetensors=True, and the weights are not", received=str(checkpoint.kind))
            model = _opened(checkpoint, asked)
        return (model, _report()) if asked.report else model

    @staticmethod
    def from_config(
        config: ModelConfig | Mapping[str, Any],
        *,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "auto",
        seed: int | None = None,
        torch_dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
    ) -> CausalLM:
        """A model with fresh weights (see ``Decoder.initialize``), in train mode. A dict, or a config of transformers',
        is read as a config.json. ``seed`` None: from torch's own generator.
        """
        if not isinstance(config, (ModelConfig, Mapping)) and hasattr(config, "to_dict"):
            config = config.to_dict()
        description = (
            config
            if isinstance(config, ModelConfig)
            else family_of(config.get("model_type"), "from_config", config).config(config)
        )
        place = choose_device(device)
        numbers = choose_dtype(torch_dtype or dtype, description.dtype, place)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        model = CausalLM(description)
        model.initialize(generator)
        return model.to(place, numbers)


def _opened(checkpoint: Checkpoint, asked: Loading) -> CausalLM:
    if asked.config is not None:
        _same_model(asked.config, checkpoint.config)
    with torch.device("meta"):
        model = CausalLM(checkpoint.config, where=asked.where.name)
    load_weights(model, checkpoint.weights, asked.dtype, asked.device, asked.quantize)
    model.generation_config, model.quantization = checkpoint.generation_config, checkpoint.quantization
    if not checkpoint.generation_config:  # its special tokens are then those of config.json, as in transformers
        tokens = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = tokens
    model.origin, model.mapped = checkpoint.path, asked.device_map is not None
    _wants_gradients(model)
    if asked.config is not None:
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.config, token, getattr(HFConfig.of(_described(asked.config)), token, None))
    model.not_followed = idle(model.generation_config)
    if model.not_followed:
        notice(
            f"{checkpoint.path}: generation_config.json has what is not followed here: {', '.join(model.not_followed)}"
        )
    return model


def _described(config: Any) -> ModelConfig:
    if isinstance(config, (str, os.PathLike)):
        config = AutoConfig.from_pretrained(config)
    if isinstance(config, ModelConfig):
        return config
    keys = config if isinstance(config, Mapping) else config.to_dict()
    return family_of(keys.get("model_type"), "config", keys).config(keys)


def _same_model(config: Any, stored: ModelConfig) -> None:
    """Raises: ConfigError where the description that was given is of another model than the file's."""
    described = _described(config)
    for name in ("model_type", "vocab_size", "d_model", "context_len", "layers", "position", "tie_embeddings"):
        if getattr(described, name) != getattr(stored, name):
            raise ConfigError(
                f"config= differs from the folder's config.json in {name}",
                expected="the description that the weights were made for",
                remedy="leave config= out; for fresh weights of another shape, from_config(config)",
            )


def _from_state(asked: Loading) -> CausalLM:
    """A model from tensors in memory, by the names of the family's files, and a description."""
    if asked.config is None:
        raise ConfigError("state_dict= needs config=, which says what the tensors are of")
    description = _described(asked.config)
    family = family_of(description.model_type, "config")
    stored = {name: to_array(tensor) for name, tensor in (asked.state_dict or {}).items()}
    weights = Weights(description, family.WEIGHTS, stored, "state_dict", ignored=family.IGNORED)
    with torch.device("meta"):
        model = CausalLM(weights.config)
    load_weights(model, weights, asked.dtype, asked.device, asked.quantize)
    _wants_gradients(model)
    return model


def _wants_gradients(model: CausalLM) -> None:
    """As transformers' do, so that an optimizer made from ``model.parameters()`` has something to train."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _report() -> dict[str, list[str]]:
    """What loading had to pass over: nothing, else it would have been an error."""
    return {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
