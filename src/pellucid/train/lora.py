"""LoRA on the torch decoder: attach it, train A and B alone, save them in PEFT's format, fold them into the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, WeightsError
from pellucid.checkpoint.adapters.adapter import read_adapter, write_adapter
from pellucid.checkpoint.adapters.lora import LoraSettings, Update, projections, targeted
from pellucid.model.decoder import Decoder
from pellucid.model.linear import Linear, LoraLinear
from pellucid.model.load import to_array, to_tensor
from pellucid.model.quantized import QuantizedLinear
from pellucid.train.runs.parallel import placed_like

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

__all__ = [
    "LoraSettings",
    "attach_lora",
    "load_adapter",
    "lora_layers",
    "merge",
    "read_lora",
    "save_adapter",
    "without_adapter",
    "write_lora",
]


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The linear maps that LoRA is attached to, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def attach_lora(model: Decoder, settings: LoraSettings, generator: torch.Generator | None = None) -> list[str]:
    """Freeze the model and give its targeted linear maps an update to learn; returns their names.

    B starts at zero, so nothing changes yet; A at U(−1/√in, 1/√in), as in Hu et al.'s code (kaiming, a = √5). Maps that
    Hugging Face's model keeps in one share their A, as they would there. A and B are float32 whatever the model's
    dtype.

    Raises: ConfigError for a target that the model does not have, or a model that has LoRA already; UnsupportedError
    for an embedding table, a head tied to it among them.
    """
    if lora_layers(model):
        raise ConfigError("the model has LoRA attached already", remedy="merge(model) first, or load the base anew")
    chosen = list(targeted(model.config, settings.targets))
    model.requires_grad_(False)
    attached = []
    for _, names in chosen:
        base = model.get_submodule(names[0])
        assert isinstance(base, (Linear, QuantizedLinear))
        bound = base.in_features**-0.5
        a = torch.empty(settings.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        shared = nn.Parameter(a.to(model.device))
        for name in names:
            _attach(model, name, shared, None, settings.scale(), settings.dropout)
        attached += names
    return attached


def _attach(model: Decoder, name: str, a: nn.Parameter, b: nn.Parameter | None, scale: float, dropout: float) -> None:
    base = model.get_submodule(name)
    assert isinstance(base, (Linear, QuantizedLinear))
    if b is None:
        b = nn.Parameter(torch.zeros(base.out_features, a.shape[0], device=a.device))
    lora = LoraLinear(base, a, b, scale, dropout)
    model.set_submodule(name, lora.train(model.training))


@torch.no_grad()
def merge(model: Decoder) -> None:
    """Fold scale · B A into each weight; the model is then like any other. Blocks of few bits become full weights."""
    for name, lora in lora_layers(model).items():
        with torch.device("meta"):
            whole = Linear(lora.base.in_features, lora.base.out_features, bias=lora.bias is not None)
        whole.weight = lora.weight
        whole.register_parameter("bias", lora.bias)
        model.set_submodule(name, whole.train(lora.training))


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Within, the model is its base: what a preference loss compares with, at no second model's cost."""
    layers = lora_layers(model).values()
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


# --- files -----------------------------------------------------------------------------------------------------------


def save_adapter(
    folder: str | Path,
    model: Decoder,
    settings: LoraSettings,
    *,
    base: str | None = None,
    base_sha256: str | None = None,
) -> None:
    """Write the model's A and B as an adapter of PEFT's. ``base``: the name of the model that they adapt;
    ``base_sha256``: its fingerprint (``checkpoint.adapted.fingerprint``), so that another is noticed.
    """
    weights = {name: to_array(parameter) for name, parameter in model.named_parameters() if "lora_" in name}
    write_lora(Path(folder), weights, model=model, settings=settings, base=base, base_sha256=base_sha256)


def write_lora(
    folder: Path,
    weights: Mapping[str, Array],
    *,
    model: Decoder,
    settings: LoraSettings,
    base: str | None = None,
    base_sha256: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """``Run``'s ``write_model`` for LoRA: the adapter, and no more, from the trained parameters by name."""
    write_adapter(folder, model.config, settings, _updates(model, weights), base=base, base_sha256=base_sha256)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _updates(model: Decoder, weights: Mapping[str, Array]) -> dict[str, Update]:
    """Each map's update; a shared A goes by the first of its names."""
    layers = lora_layers(model)
    first: dict[nn.Parameter, str] = {}
    for name, lora in layers.items():
        first.setdefault(lora.lora_a, name)
    return {
        name: Update(weights[f"{first[lora.lora_a]}.lora_a"], weights[f"{name}.lora_b"], lora.scale)
        for name, lora in layers.items()
    }


def load_adapter(model: Decoder, folder: str | Path, *, trainable: bool = False) -> LoraSettings:
    """Attach the adapter in a folder, kept apart from the weights; returns its settings. ``trainable``: to train it
    further.

    Only shapes are checked against the model: any model of the same description may stand in for the base (quantized,
    say).

    Raises: as ``checkpoint.adapter.read_adapter``; ConfigError for a model that has LoRA attached.
    """
    adapter = read_adapter(folder, model.config)
    if lora_layers(model):
        raise ConfigError(
            "the model has LoRA attached already", where=folder, remedy="merge(model) first, or load the base anew"
        )
    model.requires_grad_(False)
    for projection in projections(model.config):
        its = {name: adapter.updates[name] for name in projection.ours if name in adapter.updates}
        shared = None
        for name, update in its.items():
            shared = shared if shared is not None else _parameter(update.a, model.device)
            _attach(model, name, shared, _parameter(update.b, model.device), update.scale, adapter.settings.dropout)
    for layer in lora_layers(model).values():
        layer.lora_a.requires_grad_(trainable)
        layer.lora_b.requires_grad_(trainable)
    return adapter.settings


def _parameter(array: Array, device: torch.device) -> nn.Parameter:
    return nn.Parameter(to_tensor(array, torch.float32).to(device, copy=True))


@torch.no_grad()
def read_lora(path: Path, model: nn.Module) -> None:
    """``Run``'s ``read_model`` for LoRA: give an attached adapter the values of a folder, in place.

    Raises: WeightsError where the folder holds another adapter than is attached.
    """
    assert isinstance(model, Decoder)
    adapter, layers = read_adapter(path, model.config), lora_layers(model)
    added = [name for name, update in adapter.updates.items() if name not in layers and update.b.data.any()]
    for name in [*layers, *added]:
        update, lora = adapter.updates.get(name), layers.get(name)
        if (
            update is None
            or lora is None
            or update.rank != lora.lora_a.shape[0]
            or not math.isclose(update.scale, lora.scale)
        ):
            raise WeightsError(f"the adapter here is another than the one attached: they differ at {name}", where=path)
        lora.lora_a.copy_(placed_like(to_tensor(update.a, torch.float32), lora.lora_a))
        lora.lora_b.copy_(placed_like(to_tensor(update.b, torch.float32), lora.lora_b))
