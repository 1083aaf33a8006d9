"""``CausalLM``: the torch decoder with the methods that Hugging Face users know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.base.arguments import refuse_unknown, without
from pellucid.base.errors import ConfigError, ModelNotFoundError, RequestError, TokenizerError
from pellucid.base.notice import notice
from pellucid.causal_lm.forward import FORWARD, Called
from pellucid.causal_lm.generating import generate
from pellucid.causal_lm.loading import tell_of_attention
from pellucid.causal_lm.names import ELSEWHERE, Part, layers_at, part, part_of, roots
from pellucid.checkpoint.files.safetensors_write import MAX_SHARD_BYTES
from pellucid.checkpoint.save import save_checkpoint
from pellucid.config import ModelConfig
from pellucid.model.load import weights_of
from pellucid.model.quantized import QuantizedLinear


class Backbone(Part):
    """A model without its head, by the names that its family's files have; its parts are the model's own."""

    def __call__(self, *args: Any, **call: Any) -> Any:
        return self.__dict__["_of"][0].backbone(*args, **call)

    def __getattr__(self, name: str) -> Any:
        model, path = self.__dict__["_of"]
        if name.startswith("_") or name in model.__dict__ or name in model._modules or hasattr(type(model), name):
            return getattr(model, name)
        return part(model, f"{path}.{name}")


class Tied:
    """An embedding table in the place of a head."""

    bias = None

    def __init__(self, table: nn.Module) -> None:
        self.table = table

    @property
    def weight(self) -> Any:
        return self.table.weight

    def __call__(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.linear(hidden, self.weight)


class CausalLM(Called):
    """A decoder that is called with ids and a mask, generates, and saves itself."""

    generate = generate

    def __init__(self, config: ModelConfig, *, where: object = "") -> None:
        super().__init__(config, where=where)
        at = layers_at(self)
        for number, layer in enumerate(self.layers):
            layer.__dict__["known_as"] = partial(part_of, self, f"{at}.{number}")  # no part of the layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "lm_head":
                return Tied(self.embed)
            if name in ELSEWHERE:
                raise AttributeError(f"a model has no {name!r} here → {ELSEWHERE[name]}") from None
            if name.startswith("_") or "embed" not in self._modules or name not in roots(self):
                raise
        return Backbone(self, name)

    # --- training ----------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Of every n-th layer keep only what it reads, and compute the rest anew on the way back."""
        if offload:
            raise ConfigError("what layers read stays on the model's device", received="offload=True")
        self.recompute = max(every_n_layers, 1)

    def gradient_checkpointing_disable(self) -> None:
        self.recompute = 0

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.recompute > 0

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """A later name of the same."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    activation_checkpointing_disable = gradient_checkpointing_disable
    is_activation_checkpointing = is_gradient_checkpointing

    supports_gradient_checkpointing = True

    def enable_input_require_grads(self) -> None:
        """Embeddings want gradients, so that what stands behind them has some though their table is frozen."""
        self.embed.register_forward_hook(lambda module, args, out: out.requires_grad_(True))

    # --- what it is made of ------------------------------------------------------------------------------------------

    @property
    def model(self) -> Backbone:
        """The model without its head: to be called, and for ``model.model.layers``."""
        return Backbone(self, "model" if "model" in (known := roots(self)) else min(known))

    base_model = model

    def get_decoder(self) -> Backbone:
        return self.model

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def hf_device_map(self) -> dict[str, Any]:
        """The whole model on its one device, where a ``device_map`` was asked for."""
        if not self.mapped:
            raise AttributeError("hf_device_map: no device_map was asked for")
        return {"": str(self.device) if self.device.index is None else self.device.index}

    @classmethod
    def can_generate(cls) -> bool:
        return True

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Numbers that were learned; of a quantized matrix those that its blocks stand for."""
        count = 0
        for name, module in self.named_modules():
            if exclude_embeddings and name in ("embed", "pos_embed"):
                continue
            if isinstance(module, QuantizedLinear):
                count += 0 if only_trainable else module.out_features * module.in_features
            own = module.parameters(recurse=False)
            count += sum(p.numel() for p in own if p.requires_grad or not only_trainable)
        return count

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of its weights, and of its buffers."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module | Tied:
        """The head; where it is tied, the embedding table, as one."""
        return self.lm_head

    def tie_weights(self, **_: Any) -> None:
        """Nothing to do: a tied head is the table itself, not a copy of it."""

    @torch.no_grad()
    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Rows for more tokens, or for fewer; new ones begin as the mean of those that are there."""
        from pellucid.causal_lm.resize import resize

        if new_num_tokens is not None:
            if pad_to_multiple_of:
                new_num_tokens = -(-new_num_tokens // pad_to_multiple_of) * pad_to_multiple_of
            resize(self, new_num_tokens, mean=mean_resizing)
        return self.embed

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What a forward is called with in the midst of an answer (PEFT asks)."""
        past = kwargs.get("past_key_values")
        if past is not None:
            input_ids = input_ids[:, past.get_seq_length() :]
        return {"input_ids": input_ids, **{name: kwargs[name] for name in FORWARD if kwargs.get(name) is not None}}

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Nothing to choose: torch's fused kernel attends, and a line says so."""
        tell_of_attention(attn_implementation)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """Each new token's score (B, new), from what ``generate(…, return_dict_in_generate=True, output_scores=True)``
        gave; ``normalize_logits``: its log-probability.

        Raises: RequestError for beams, whose scores of each step are not kept.
        """
        if beam_indices is not None or not scores:
            raise RequestError(
                "scores of each step are kept where tokens are taken one by one, not of beams",
                remedy="output_scores=True with num_beams=1; sequences_scores has each beam's",
            )
        table = torch.stack(tuple(scores), 1)  # (B, new, V)
        if normalize_logits:
            table = table.float().log_softmax(-1)
        new = sequences[:, -table.shape[1] :, None]
        return table.gather(-1, new.to(table.device)).squeeze(-1)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """By our names. Raises: RuntimeError where names or shapes differ, and a word where they are another's."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            if not any(name.partition(".")[0] in roots(self) for name in state_dict):
                raise
            remedy = "AutoModelForCausalLM.from_pretrained(None, state_dict=…, config=model.config)"
            raise RuntimeError(f"these tensors have their files' names, not the model's → {remedy}\n{error}") from None

    def add_model_tags(self, tags: Any) -> None:
        """Tags of a model card; none is written here."""

    # --- saving ------------------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        max_shard_size: int | str = MAX_SHARD_BYTES,
        state_dict: Mapping[str, Tensor] | None = None,
        safe_serialization: bool = True,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **unknown: Any,
    ) -> None:
        """Write config.json, safetensors (in shards of at most ``max_shard_size`` bytes), generation_config.json, and
        the tokenizer that it came with, unless one is there.

        A folder that is saved to again keeps its old files until the new ones are whole. Of a model that was quantized
        the numbers are written that its weights stand for, and a line says so.
        """
        refuse_unknown(
            "save_pretrained", without(unknown, ("save_function", "variant", "token")), ("max_shard_size",), {}
        )
        if not safe_serialization:
            raise ConfigError("weights are written as safetensors", received="safe_serialization=False")
        if not is_main_process:
            return
        weights = dict(weights_of(self)) if state_dict is None else _from_state(self, state_dict)
        if self.quantization is not None:
            dtype = weights["embed.weight"].dtype
            notice(f"{folder}: weights that were {self.quantization} are written as {dtype}, not quantized")
        save_checkpoint(
            os.fspath(folder),
            self.config,
            weights,
            generation_config=self.generation_config,
            max_shard_bytes=_bytes(max_shard_size),
        )
        self._save_tokenizer(Path(folder))
        if push_to_hub:
            self.push_to_hub(Path(folder).name)

    def _save_tokenizer(self, folder: Path) -> None:
        from pellucid.auto import tokenizer_at
        from pellucid.text.load import TOKENIZER_FILES

        if self.origin is None or any((folder / name).exists() for name in TOKENIZER_FILES):
            return
        with suppress(TokenizerError, ModelNotFoundError):  # a model may have none
            tokenizer_at(self.origin).save_pretrained(folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **_: Any) -> str:
        """The model's files into a repository of the hub; its address."""
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=repo.repo_id, folder_path=folder)
        return str(repo)


def _bytes(size: int | str) -> int:
    """Bytes of ``"5GB"``."""
    if isinstance(size, int):
        return size
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    text = size.upper().strip()
    for unit, many in sorted(units.items(), key=lambda pair: -len(pair[0])):
        if text.endswith(unit):
            try:
                return int(float(text.removesuffix(unit)) * many)
            except ValueError:
                break
    raise ConfigError("max_shard_size is a number of bytes", expected='5_000_000_000 or "5GB"', received=repr(size))


def _from_state(model: CausalLM, state: Mapping[str, Tensor]) -> dict[str, Any]:
    from pellucid.model.load import to_array

    return {name: to_array(state[name]) for name, _ in weights_of(model)}
