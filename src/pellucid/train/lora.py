"""LoRA on the torch decoder: attach it, train A and B alone, save them in PEFT's format, fold them into the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, WeightsError
from pellucid.checkpoint.adapters.adapter import read_adapter, write_adapter
from pellucid.checkpoint.adapters.lora import LoraSettings, Update, projections, saved_matches, targeted
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
    dtype. ``modules_to_save`` learn as they are.

    Raises: ConfigError for a target that the model does not have, or a model that has LoRA already; UnsupportedError
    for an embedding table, a head tied to it among them.
    """
    if lora_layers(model):
        raise ConfigError("the model has LoRA attached already", remedy="merge(model) first, or load the base anew")
    chosen = list(targeted(model.config, settings.targets))
    model.requires_grad_(False)
    attached = []
    for name in saved_weights(model, settings):
        model.get_parameter(name).requires_grad_()
    for projection, names in chosen:
        if settings.dora and names != projection.ours:
            raise ConfigError(
                f"{', '.join(names)} is a part of {projection.theirs}, and DoRA takes a map whole", where="LoRA"
            )
        base = model.get_submodule(names[0])
        assert isinstance(base, (Linear, QuantizedLinear))
        bound = base.in_features**-0.5
        a = torch.empty(settings.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        shared = nn.Parameter(a.to(model.device))
        for name in names:
            whole = model.get_submodule(name).weight
            assert isinstance(whole, Tensor)
            length = nn.Parameter(torch.linalg.norm(whole.detach().float(), dim=1)) if settings.dora else None
            _attach(model, name, shared, None, settings.scale(), settings.dropout, length)
        attached += names
    return attached


def _attach(
    model: Decoder,
    name: str,
    a: nn.Parameter,
    b: nn.Parameter | None,
    scale: float,
    dropout: float,
    magnitude: nn.Parameter | None,
) -> None:
    base = model.get_submodule(name)
    assert isinstance(base, (Linear, QuantizedLinear))
    if b is None:
        b = nn.Parameter(torch.zeros(base.out_features, a.shape[0], device=a.device))
    lora = LoraLinear(base, a, b, scale, dropout, magnitude)
    model.set_submodule(name, lora.train(model.training))


def saved_weights(model: Decoder, settings: LoraSettings) -> list[str]:
    """The weights that learn whole, by our names. Raises: ConfigError for a module that the model does not have, or one
    whose maps would have an update as well.
    """
    if not settings.modules_to_save:
        return []
    names = [name for match in saved_matches(model.config, settings.modules_to_save) for name in match.ours]
    maps = {f"{name}.weight" for _, ours in targeted(model.config, settings.targets) for name in ours}
    if both := sorted(maps.intersection(names)):
        raise ConfigError(
            f"{both[0]} is to learn whole, and to have an update as well",
            where="modules_to_save",
            remedy="name it in one of the two",
        )
    return names


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
    saved = {*saved_weights(model, settings)}
    named = model.named_parameters()
    weights = {name: to_array(parameter) for name, parameter in named if "lora_" in name or name in saved}
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
    saved = {name: weights[name] for name in saved_weights(model, settings)}
    updates = _updates(model, weights)
    write_adapter(folder, model.config, settings, updates, saved=saved, base=base, base_sha256=base_sha256)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _updates(model: Decoder, weights: Mapping[str, Array]) -> dict[str, Update]:
    """Each map's update; a shared A goes by the first of its names."""
    layers = lora_layers(model)
    first: dict[nn.Parameter, str] = {}
    for name, lora in layers.items():
        first.setdefault(lora.lora_a, name)
    return {
        name: Update(
            weights[f"{first[lora.lora_a]}.lora_a"],
            weights[f"{name}.lora_b"],
            lora.scale,
            weights.get(f"{name}.lora_magnitude"),
        )
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
            length = None if update.magnitude is None else _parameter(update.magnitude, model.device)
            b = _parameter(update.b, model.device)
            _attach(model, name, shared, b, update.scale, adapter.settings.dropout, length)
    for layer in lora_layers(model).values():
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(trainable)
    with torch.no_grad():
        for name, array in adapter.saved.items():
            weight = model.get_parameter(name)
            weight.copy_(to_tensor(array, weight.dtype))
            weight.requires_grad_(trainable)
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
            or (update.magnitude is None) != (lora.lora_magnitude is None)
        ):
            raise WeightsError(f"the adapter here is another than the one attached: they differ at {name}", where=path)
        lora.lora_a.copy_(placed_like(to_tensor(update.a, torch.float32), lora.lora_a))
        lora.lora_b.copy_(placed_like(to_tensor(update.b, torch.float32), lora.lora_b))
        if update.magnitude is not None and lora.lora_magnitude is not None:
            lora.lora_magnitude.copy_(placed_like(to_tensor(update.magnitude, torch.float32), lora.lora_magnitude))
    for name, array in adapter.saved.items():
        weight = model.get_parameter(name)
        weight.copy_(placed_like(to_tensor(array, weight.dtype), weight))
