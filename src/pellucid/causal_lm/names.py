"""Parts of a model by the names that its family's own files, and so transformers' classes, have for them.

``model.model.layers[0].self_attn.q_proj`` is ``model.layers[0].attention.q_proj``: the rules by which weights are
read say so (``families/``). What a file holds in another shape than the model does (GPT-2's ``c_attn``: three maps in
one, transposed) has no such name, and an error says what it became.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.families import family_of
from pellucid.families.translation.rules import matches
from pellucid.model.decoder import Decoder

# Methods of transformers' models that are not here.
ELSEWHERE = {
    "set_input_embeddings": "model.resize_token_embeddings(n), then write into model.get_input_embeddings().weight",
    "set_output_embeddings": "model.resize_token_embeddings(n), then write into model.get_output_embeddings().weight",
    "add_adapter": "peft.get_peft_model(model, LoraConfig(…)), or `pellucid finetune`",
    "load_adapter": "AutoModelForCausalLM.from_pretrained(adapter's folder), or peft.PeftModel.from_pretrained",
    "set_adapter": "peft.PeftModel's",
    "disable_adapters": "peft.PeftModel's disable_adapter()",
    "prune_heads": 'trace(model, tokenizer, text, edits=[Ablate("layers.3", head=5)]) shows what a head does',
    "init_weights": "AutoModelForCausalLM.from_config(config) draws fresh weights",
    "post_init": "AutoModelForCausalLM.from_config(config) draws fresh weights",
    "dequantize": "load it without quantize",
    "register_for_auto_class": "no code is in a model's folder, and none is executed from one",
    "to_bettertransformer": "torch's fused kernel attends in any case",
    "parallelize": "a model is on one device, whole: model.to('cuda')",
    "loss_function": "model(ids, labels=ids).loss",
    "dummy_inputs": "torch.tensor([[1, 2, 3]])",
    "greedy_search": "model.generate(ids)",
    "beam_search": "model.generate(ids, num_beams=4)",
    "contrastive_search": "model.generate(ids, do_sample=True, top_p=0.95)",
    "chat": "tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors='pt'), then generate",
    "stream_chat": "generate(…, streamer=TextStreamer(tokenizer))",
    "quantize": "from_pretrained(name, quantize='q4')",
    "train_new_model": "AutoModelForCausalLM.from_config(config)",
}


class Part:
    """What their files keep under ``path``: it is looked into further by attribute, or by number."""

    def __init__(self, model: Decoder, path: str) -> None:
        self.__dict__["_of"] = (model, path)

    def __getattr__(self, name: str) -> Any:
        model, path = self.__dict__["_of"]
        if name.startswith("__"):
            raise AttributeError(name)
        return part(model, f"{path}.{name}")

    def __getitem__(self, number: int) -> Any:
        model, path = self.__dict__["_of"]
        return part(model, f"{path}.{number}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise ConfigError(
            f"{self.__dict__['_of'][1]}.{name}: parts of a model cannot be exchanged by their files' names",
            remedy="edit config.num_hidden_layers before from_config, or the parts that print(model) shows",
        )


def part(model: Decoder, path: str) -> Any:
    """The parameter or module of ours that ``path`` names, or what is to be looked into further.

    Raises: AttributeError for a name that the files do not have, or that stands for something of another shape.
    """
    at, _, number = path.rpartition(".")
    if path == layers_at(model):
        return model.layers
    if at == layers_at(model) and number.isdigit():
        return model.layers[int(number)]
    plain, reshaped = _names(model.config, model.config.model_type)
    if path in plain:
        return model.get_parameter(plain[path])
    if path in reshaped:
        raise AttributeError(f"{path} is held otherwise here → {', '.join(reshaped[path])}")
    inside = f"{path}."
    here = {name[len(inside) :]: ours for name, ours in plain.items() if name.startswith(inside)}
    bases = {ours.removesuffix(f".{rest}") if ours.endswith(f".{rest}") else "" for rest, ours in here.items()}
    if len(bases) == 1 and (base := bases.pop()) and not any(name.startswith(inside) for name in reshaped):
        return model.get_submodule(base)
    if here or any(name.startswith(inside) for name in reshaped):
        return Part(model, path)
    raise AttributeError(f"a {model.config.model_type} model has no {path!r} → print(model) shows its parts")


def part_of(model: Decoder, path: str, name: str) -> Any:
    """``part`` of a part."""
    return part(model, f"{path}.{name}")


def roots(model: Decoder) -> set[str]:
    """First words of their names, but for the head's: ``model``, ``transformer``."""
    plain, reshaped = _names(model.config, model.config.model_type)
    return {name.partition(".")[0] for name in (*plain, *reshaped)} - {"lm_head"}


def layers_at(model: Decoder) -> str:
    """Where their files have the layers: ``model.layers``, ``transformer.h``."""
    family = family_of(model.config.model_type, "config")
    return next((rule.theirs.split(".{i}")[0] for rule in family.WEIGHTS if ".{i}" in rule.theirs), "layers")


@lru_cache(maxsize=16)
def _names(config: ModelConfig, model_type: str) -> tuple[Mapping[str, str], Mapping[str, tuple[str, ...]]]:
    """Their names of what is ours under another name alone; and of what has another shape, too."""
    plain: dict[str, str] = {}
    reshaped: dict[str, tuple[str, ...]] = {}
    for match in matches(config, family_of(model_type, "config").WEIGHTS):
        if len(match.ours) == 1 and not match.rule.transforms:
            plain[match.theirs] = match.ours[0]
        else:
            reshaped[match.theirs] = match.ours
    return plain, reshaped
