"""``AutoModelForCausalLM``: the torch decoder with the methods that Hugging Face users know."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.auto import Name, open_model
from pellucid.base.errors import ConfigError, RequestError
from pellucid.base.notice import notice
from pellucid.checkpoint.files.safetensors_write import MAX_SHARD_BYTES
from pellucid.checkpoint.save import save_checkpoint
from pellucid.config import ModelConfig
from pellucid.defaults import AnswerDefaults, tell_what_is_not_followed
from pellucid.families import family_of
from pellucid.generate import DraftModel, PromptLookup, Speculator, Streamer, append_new_tokens, generate
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.model.finite import require_finite
from pellucid.model.load import choose_device, choose_dtype, load_weights, weights_of
from pellucid.model.quantized import QUANTIZED


@dataclass
class CausalLMOutput:
    """What a forward pass returns: ``logits`` (B, T, V), and ``loss``, a scalar, where labels were given."""

    logits: Float[Tensor, "B T V"]
    loss: Float[Tensor, ""] | None = None


class CausalLM(Decoder):
    """A decoder that is called with ids and a mask, generates, and saves itself."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # Hugging Face's signature; a Context goes to hidden() and logits()
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
    ) -> CausalLMOutput:
        """Logits of every position; with ``labels`` (−100: not counted), the mean cross-entropy of each next token.

        ``labels`` are shifted here: position t is scored on labels[t + 1], as in transformers. Rows may be padded on
        either side. Raises: NotFiniteError where a number is NaN or infinite, naming layer and tensor.
        """
        mask = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
        if position_ids is None:
            counted = torch.ones_like(input_ids) if mask is None else mask
            position_ids = (counted.cumsum(1) - 1).clamp(min=0)
        looked_at = not torch.compiler.is_compiling() and not input_ids.is_meta
        ctx = Context(position_ids, key_mask=mask, sums=[] if looked_at else None)
        logits = self.logits(self.hidden(input_ids, ctx), ctx)
        if looked_at:
            require_finite(self, logits, input_ids, ctx)
        if labels is None:
            return CausalLMOutput(logits)
        return CausalLMOutput(logits, F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()))

    def generate(
        self,
        input_ids: Int[Tensor, "B T"] | Sequence[int],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Collection[int] | None = None,
        pad_token_id: int | None = None,
        num_return_sequences: int = 1,
        seed: int | None = None,
        streamer: Streamer | None = None,
        tokenizer: Any = None,
        prompt_lookup_num_tokens: int | None = None,
        assistant_model: Decoder | None = None,
    ) -> Int[Tensor, "B T_new"]:
        """The prompts and what follows them. Prompts of a batch are padded on the left and masked; rows that end early,
        on the right.

        Runs these weights as they are now. What is None is as ``generation_config`` says, as in transformers; where
        that says nothing: greedy, 1.0, 0 (all tokens), 1.0, 0.0, 1.0, no stop strings, until the context is full.
        ``stop_token_ids`` None: every id that config, ``generation_config`` or ``tokenizer`` names as an end; ``stop``
        strings need the ``tokenizer``. ``position_ids`` is taken from tokenizers that give it; positions follow from
        the mask. A seed is each prompt's own: equal prompts answer alike, and the ``num_return_sequences`` answers to
        one differ.
        ``prompt_lookup_num_tokens`` and ``assistant_model`` guess tokens ahead (see ``generate/speculate.py``): in
        float32 on a CPU the answers are the same, elsewhere up to rounding.

        Raises: RequestError for arguments out of range or padding on the right; ContextLengthError naming prompt and
        context lengths.
        """
        ids = torch.atleast_2d(torch.as_tensor(input_ids, dtype=torch.long))
        defaults = AnswerDefaults.of(self.config, self.generation_config)
        sampling = defaults.sampling_with(
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        if pad_token_id is not None and not 0 <= pad_token_id < self.config.vocab_size:
            expected = f"a token of the model, 0 to {self.config.vocab_size - 1}"
            raise RequestError("pad_token_id is out of range", expected=expected, received=pad_token_id)
        results = generate(
            TorchExecutor(self),
            _without_padding(ids, attention_mask),
            tokenizer=tokenizer,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            stop_token_ids=stop_token_ids,
            n=num_return_sequences,
            streamer=streamer,
            speculate=_speculator(prompt_lookup_num_tokens, assistant_model),
        )
        pad = defaults.pad_token_id if pad_token_id is None else pad_token_id
        return torch.from_numpy(append_new_tokens(ids.cpu().numpy(), results, pad)).to(ids.device)

    def save_pretrained(self, folder: str | os.PathLike[str], *, max_shard_size: int = MAX_SHARD_BYTES) -> None:
        """Write config.json, safetensors (in shards of at most ``max_shard_size`` bytes) and generation_config.json.

        A folder that is saved to again keeps its old files until the new ones are whole. Of a model that was quantized
        the numbers are written that its weights stand for, and a line says so.
        """
        weights = dict(weights_of(self))
        if self.quantization is not None:
            dtype = weights["embed.weight"].dtype
            notice(f"{folder}: weights that were {self.quantization} are written as {dtype}, not quantized")
        save_checkpoint(
            os.fspath(folder),
            self.config,
            weights,
            generation_config=self.generation_config,
            max_shard_bytes=max_shard_size,
        )


class AutoModelForCausalLM:
    """``from_pretrained`` and ``from_config`` as Hugging Face users know them."""

    @staticmethod
    def from_pretrained(
        name: Name,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        quantize: str | None = None,
        revision: str | None = None,
        offline: bool = False,
        trust_remote_code: bool = False,
    ) -> CausalLM:
        """The model behind a name, in eval mode; its weights need no gradients until ``requires_grad_()``. An adapter's
        folder gives its base with the adapter merged in.

        ``quantize`` ("q8", "q4") keeps the layers' matrices in blocks of 8 or 4 bits, or in the blocks that a GGUF file
        has them in: an eighth of the memory, frozen, decoded for each product. It is what QLoRA trains on; to answer
        quickly, take the native executor. ``trust_remote_code`` is accepted and never needed: no code from a model
        folder is executed. Raises: ModelNotFoundError, CheckpointError, WeightsError, UnsupportedError or ConfigError,
        each with place and remedy.
        """
        if quantize not in (None, *QUANTIZED):
            raise ConfigError(f"quantize={quantize!r} is not known", expected=" or ".join(QUANTIZED))
        checkpoint = open_model(name, revision=revision, offline=offline)
        with torch.device("meta"):
            model = CausalLM(checkpoint.config)
        load_weights(model, checkpoint.weights, dtype, device, quantize)
        model.generation_config, model.quantization = checkpoint.generation_config, checkpoint.quantization
        tell_what_is_not_followed(checkpoint.generation_config, checkpoint.path)
        return model

    @staticmethod
    def from_config(
        config: ModelConfig | Mapping[str, Any],
        *,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "auto",
        seed: int | None = None,
    ) -> CausalLM:
        """A model with fresh weights (see ``Decoder.initialize``), in train mode. A dict is read as a config.json."""
        description = (
            config
            if isinstance(config, ModelConfig)
            else family_of(config.get("model_type"), "from_config", config).config(config)
        )
        place = choose_device(device)
        numbers = choose_dtype(dtype, description.dtype, place)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        model = CausalLM(description)
        model.initialize(generator)
        return model.to(place, numbers)


def _speculator(prompt_lookup_num_tokens: int | None, assistant_model: Decoder | None) -> Speculator | None:
    if prompt_lookup_num_tokens is not None and assistant_model is not None:
        raise RequestError("prompt_lookup_num_tokens and assistant_model exclude each other")
    if assistant_model is not None:
        return DraftModel(TorchExecutor(assistant_model))
    return None if prompt_lookup_num_tokens is None else PromptLookup(prompt_lookup_num_tokens)


def _without_padding(ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    if attention_mask is None:
        return ids.tolist()
    mask = attention_mask.bool()
    if mask.shape != ids.shape or not torch.equal(mask, mask.cummax(1).values if mask.numel() else mask):
        raise RequestError(
            "attention_mask must be zeros, then ones, in each row: the answer follows the last token",
            remedy="pad on the left",
        )
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
