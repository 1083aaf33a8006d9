"""``HFConfig``: a description that also answers to the names that its family's config.json has for things."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from pellucid.base.arguments import refuse_unknown
from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.families import family_of

# Names that transformers' classes share beside those of their files → the description's word for it.
SAID_AS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "max_position_embeddings": "context_len",
}
OF_ATTENTION = {
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "sliding_window": "window",
}
# What every config of transformers' has, at the value that it has here.
ALWAYS: Mapping[str, Any] = {
    "use_cache": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "use_return_dict": True,
    "is_encoder_decoder": False,
    "is_decoder": True,
    "keys_to_ignore_at_inference": ["past_key_values"],
    "pretraining_tp": 1,
    "problem_type": None,
    "sub_configs": {},
    "_attn_implementation": "sdpa",
    "attention_dropout": 0.0,
    "transformers_version": None,
    "name_or_path": "",
    "_name_or_path": "",
}
_DTYPES = ("torch_dtype", "dtype")
# Known of transformers, and where the idea lives here.
ELSEWHERE = {
    "num_labels": "models here predict the next token",
    "id2label": "models here predict the next token",
    "label2id": "models here predict the next token",
    "initializer_range": "fresh weights are drawn by the sizes of the layers: AutoModelForCausalLM.from_config(config)",
    "push_to_hub": "model.push_to_hub(name)",
    "base_model_tp_plan": "a model is on one device, whole",
    "attribute_map": "config.to_dict() has the names of the family's own file",
    "chunk_size_feed_forward": "the MLP takes all positions at once",
}
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class HFConfig(ModelConfig):
    """A ``ModelConfig``, equal to it in every field, that transformers' users can read, and set, as they are used to.

    ``config.hidden_size``, ``config.n_embd``, ``config.to_dict()``: by the names of the family's own file. What is set
    by such a name changes the description, until a model has been built from it: then sizes stand, and only the ids of
    special tokens, and what changes no number (``use_cache``), can be set.
    """

    @classmethod
    def of(cls, config: ModelConfig, *, built: bool = False, where: object = "") -> HFConfig:
        """The same description; ``built``: of a model that is there."""
        made = object.__new__(cls)
        for each in fields(ModelConfig):
            object.__setattr__(made, each.name, getattr(config, each.name))
        object.__setattr__(made, "_said", {"name_or_path": str(where), "_name_or_path": str(where)} if where else {})
        object.__setattr__(made, "_built", built)
        return made

    def with_keys(self, keys: Mapping[str, Any]) -> Any:
        """Itself, with keys of config.json set on it, as a call to ``from_pretrained`` may ask.

        Raises: TypeError for a key that it has not, unless ``return_unused_kwargs`` asks to have those back.
        """
        asked = dict(keys)
        both = asked.pop("return_unused_kwargs", False)
        unused = {}
        for name, value in asked.items():
            if name in _DTYPES or hasattr(self, name):
                setattr(self, "torch_dtype" if name in _DTYPES else name, value)
            else:
                unused[name] = value
        if both:
            return self, unused
        refuse_unknown("AutoConfig.from_pretrained", unused, self.to_dict(), {})
        return self

    def to_dict(self) -> dict[str, Any]:
        """config.json's keys, as ``save_pretrained`` writes them."""
        return family_of(self.model_type, "config").to_hf(self)

    to_diff_dict = to_dict

    def to_json_string(self, use_diff: bool = True) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def update(self, keys: Mapping[str, Any]) -> None:
        """Set several keys."""
        for name, value in keys.items():
            setattr(self, name, value)

    def save_pretrained(self, folder: Any) -> None:
        """Write config.json."""
        from pathlib import Path

        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / "config.json")

    def to_json_file(self, file: Any, use_diff: bool = True) -> None:
        from pellucid.base.files import atomic_write

        with atomic_write(file) as out:
            out.write(self.to_json_string().encode())

    @classmethod
    def from_dict(cls, keys: Mapping[str, Any], **more: Any) -> HFConfig:
        keys = {**keys, **more}
        return cls.of(family_of(keys.get("model_type"), "from_dict", keys).config(keys))

    @classmethod
    def from_json_file(cls, file: Any) -> HFConfig:
        return cls.from_pretrained(file)

    @classmethod
    def from_pretrained(cls, name: Any, **call: Any) -> HFConfig:
        """As ``AutoConfig.from_pretrained``, of a folder or file on disk."""
        from pathlib import Path

        from pellucid.base.files import read_json

        path = Path(name)
        keys = read_json(path / "config.json" if path.is_dir() else path)
        return cls.of(family_of(keys.get("model_type"), path, keys).config(keys), where=name)

    def get_text_config(self, *_: Any, **__: Any) -> HFConfig:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_said", "_built"):
            raise AttributeError(name)
        if name in self._said:
            return self._said[name]
        known = self.to_dict()
        if name in known:
            return known[name]
        if name in SAID_AS:
            return getattr(self, SAID_AS[name])
        attention = next((layer.attention for layer in self.layers if layer.attention), None)
        if name in OF_ATTENTION and attention is not None:
            return getattr(attention, OF_ATTENTION[name])
        mlp = next((layer.mlp for layer in self.layers if layer.mlp), None)
        if name == "intermediate_size" and mlp is not None:
            return mlp.d_ff
        if name == "torch_dtype":
            import torch  # whoever asks for torch's own type of numbers has it

            return getattr(torch, self.dtype)
        if name == "rope_parameters" and (rope := getattr(attention, "rope", None)):
            scaling = known.get("rope_scaling") or {}
            kind = scaling.get("rope_type") or scaling.get("type") or "default"
            return {**scaling, "rope_theta": rope.theta, "rope_type": kind}
        if name in ALWAYS:
            return ALWAYS[name]
        near = get_close_matches(name, [*known, *SAID_AS, *OF_ATTENTION, *ALWAYS], 1)
        hint = ELSEWHERE.get(name) or (f"did you mean {near[0]!r}?" if near else "config.to_dict() shows what it has")
        raise AttributeError(f"a {self.model_type} model's description has no {name!r} → {hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "attention_dropout" and value:
            raise ConfigError(
                "attention_dropout is the training's to say, not the model's",
                where=f"config ({self.model_type})",
                received=repr(value),
                remedy="`pellucid finetune --attention-dropout`, `pellucid pretrain --attention-dropout`",
            )
        if name in ALWAYS or name.startswith("_"):
            self._said[name] = value
        elif name == "eos_token_id":
            object.__setattr__(self, "eos_token_ids", () if value is None else _ids(value))
        elif name in TOKENS:
            object.__setattr__(self, name, value)
        elif self._built:
            if getattr(self, name, None) != value:
                raise ConfigError(
                    f"{name} of a model that is built cannot be set",
                    where=f"config ({self.model_type})",
                    received=repr(value),
                    remedy="set it on AutoConfig.from_pretrained(…), and build with AutoModelForCausalLM.from_config",
                )
        else:
            self._rebuild(name, value)

    def _rebuild(self, name: str, value: Any) -> None:
        """The description of the family's file with another value; lists that have an item a layer follow."""
        keys = self.to_dict() | {name: value}
        if name in keys.keys() & {"num_hidden_layers", "n_layer", "num_layers"} and isinstance(value, int):
            by_layer = (key for key, old in keys.items() if isinstance(old, list) and len(old) == self.num_layers)
            keys |= {key: (keys[key] * (value // self.num_layers + 1))[:value] for key in by_layer}
        other = family_of(self.model_type, "config").config(keys)
        for each in fields(ModelConfig):
            object.__setattr__(self, each.name, getattr(other, each.name))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelConfig):
            return NotImplemented
        return all(getattr(self, each.name) == getattr(other, each.name) for each in fields(ModelConfig))

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, each.name) for each in fields(ModelConfig) if each.hash is not False))

    def __repr__(self) -> str:
        return f"{self.model_type} {self.to_json_string()}"

    def __deepcopy__(self, memo: dict[int, Any]) -> HFConfig:
        copied = HFConfig.of(self, built=self._built)
        self_said = dict(self._said)
        object.__setattr__(copied, "_said", self_said)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        plain = ModelConfig(**{each.name: getattr(self, each.name) for each in fields(ModelConfig)})
        return _again, (plain, self._built, dict(self._said))


def _again(plain: ModelConfig, built: bool, said: dict[str, Any]) -> HFConfig:
    made = HFConfig.of(plain, built=built)
    made._said.update(said)
    return made


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
