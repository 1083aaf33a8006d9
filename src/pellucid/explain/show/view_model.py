"""What the page says of a model before it runs: its description, where its bytes are, the values of a weight."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pellucid.config import LayerConfig, Mixer, weight_shapes
from pellucid.explain.questions.causal import parts_of
from pellucid.explain.subject import Subject
from pellucid.families import FAMILIES
from pellucid.model.position import inverse_frequencies
from pellucid.operations import Tap, taps_of
from pellucid.operations.mix import Mix
from pellucid.operations.norm import Norm
from pellucid.operations.scores import Scores

BINS = 64

NO_MLP = {"d_ff": 0, "activation": "", "gated": False, "bias": False}  # of a layer that is a mixer alone


def describe(subject: Subject) -> dict[str, Any]:
    """The description and its parts, plain enough for JSON."""
    config, decoder, taps = subject.decoder.config, subject.decoder, taps_of(subject.decoder.config)
    parts = [_part(subject, name, shape) for name, shape in weight_shapes(config).items()]
    text = json.dumps(FAMILIES[config.model_type].to_hf(config), indent=2, ensure_ascii=False, default=str)
    total = sum(part["bytes"] for part in parts)
    return {
        "name": subject.name,
        "model_type": config.model_type,
        "config": {
            "vocab_size": config.vocab_size,
            "d_model": config.d_model,
            "context_len": config.context_len,
            "position": config.position,
            "embedding_scale": config.embedding_scale,
            "tie_embeddings": config.tie_embeddings,
            "embedding_norm": config.embedding_norm is not None,
            "final_norm": asdict(config.final_norm) if config.final_norm else None,
            "dtype": str(decoder.dtype).removeprefix("torch."),
            "device": str(decoder.device),
        },
        "native": subject.native.told() if subject.native else None,
        "config_text": text,
        "config_bytes": len(text.encode()),
        "layers": [
            _layer(layer, [tap for tap in taps.values() if tap.layer == i]) for i, layer in enumerate(config.layers)
        ],
        "files": [
            {"name": name, "bytes": size, "what": "description" if name == subject.description else "weights"}
            for name, size in subject.files.items()
        ],
        "parts": parts,
        "parts_of": list(dict.fromkeys(part.kind for part in parts_of(decoder))),
        "total_parameters": config.num_parameters(),
        "total_bytes": total,
    }


def _layer(layer: LayerConfig, taps: Sequence[Tap]) -> dict[str, Any]:
    experts = layer.experts.num_experts if layer.experts else 0
    shared = {
        "mixer": layer.mixer.name if layer.mixer else None,
        "mlp": {**(asdict(layer.mlp) if layer.mlp else NO_MLP), "experts": experts},
        "experts": asdict(layer.experts) if layer.experts else None,
        "norms": _norms(taps),
        "parallel": layer.parallel,
    }
    if (attention := layer.attends) is None:
        return shared | _without_attention(layer.mixer, taps)
    rope = attention.rope
    queries, keys = next((tap.inputs for tap in taps if isinstance(tap.operation, Scores)), (None, None))
    values = next((tap.inputs[1] for tap in taps if isinstance(tap.operation, Mix)), None)
    return {
        "num_heads": attention.num_heads,
        "num_kv_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "scale": attention.softmax_scale,
        "softcap": attention.softcap,
        "window": attention.window,
        "alibi": attention.alibi_slopes or None,
        "sinks": getattr(attention, "sinks", False),
        "qk_norm": asdict(attention.qk_norm) if attention.qk_norm else None,
        "rope": None
        if rope is None
        else {"dim": rope.dim, "theta": rope.theta, "layout": rope.layout, "frequencies": _frequencies(layer)},
        "compared": {"q": queries, "k": keys, "v": values},  # perhaps an earlier layer's keys and values
        **shared,
    }


def _without_attention(mixer: Mixer | None, taps: Sequence[Tap]) -> dict[str, Any]:
    """A layer that does not attend: no heads that look about, and the steps of its mixer in their order."""
    names = [tap.name for tap in taps]
    steps = taps[names.index("attn_in") + 1 : names.index("attn_out")] if mixer else ()
    heads = getattr(mixer, "num_heads", 1)  # of a memory each; one where there are none, so that there is a first
    return {
        "num_heads": heads,
        "num_kv_heads": getattr(mixer, "num_key_heads", heads),
        "head_dim": 0,
        "scale": 1.0,
        "softcap": None,
        "window": None,
        "qk_norm": None,
        "rope": None,
        "compared": {"q": None, "k": None},
        "about": asdict(mixer) if mixer else None,
        "steps": [{"name": tap.name, "heads": "head" in tap.axes or "kv_head" in tap.axes} for tap in steps],
    }


def _norms(taps: Iterable[Tap]) -> list[dict[str, Any]]:
    """The norms of the stream in the order of computation: about which part each stands and where, and its input."""
    norms: list[dict[str, Any]] = []
    for tap in taps:
        if isinstance(norm := tap.operation, Norm) and "d_model" in tap.axes and ".side." not in norm.name:
            part, _, place = norm.name.rpartition(".")[2].removesuffix("_norm").partition("_")
            at = {"part": part, "place": {"": "before", "post": "after"}.get(place, place)}
            names = {name.rpartition(".")[2]: name for name, _ in norm.weights}
            weights = {"gamma": names.get("weight"), "beta": names.get("bias")}
            norms.append({**at, "step": tap.path, "inputs": tap.inputs, **weights, **asdict(norm.config)})
    return norms


def _frequencies(layer: LayerConfig) -> list[float]:
    """Radians a position for each pair; where they depend on the length, those of a short text."""
    rope = layer.mixer.rope
    assert rope
    return inverse_frequencies(rope, torch.ones(1, 1, dtype=torch.long)).flatten().tolist()


def _part(subject: Subject, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    weight = subject.decoder.get_parameter(name)
    dtype, size = subject.stored.get(name, (str(weight.dtype).removeprefix("torch."), weight.nbytes))
    layer = int(name.split(".")[1]) if name.startswith("layers.") else None
    kind = name.split(".", 2)[2] if layer is not None else name
    part = (
        "embed"
        if "embed" in name
        else "output"
        if name.startswith("lm_head")
        else "norm"
        if "norm" in name
        else "mlp"
        if ".mlp." in name
        else "attention"
    )
    return {
        "name": name,
        "shape": list(shape),
        "dtype": dtype,
        "bytes": size,
        "parameters": weight.numel(),
        "part": part,
        "kind": kind,
        "layer": layer,
    }


@torch.no_grad()
def histogram(weight: Tensor) -> dict[str, Any]:
    """Counts of a weight's values in equal bins from its least to its largest, and their summary."""
    values = weight.detach().float().flatten()
    low, high = (float(edge) for edge in values.aminmax())
    counts = (
        torch.histc(values, BINS, low, high) if high > low else torch.tensor([float(len(values)), *[0.0] * (BINS - 1)])
    )
    return {
        "edges": [low, high],
        "counts": [int(count) for count in counts],
        "min": low,
        "max": high,
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
    }
