"""What the page says of a model before it runs: its description, where its bytes are, the values of a weight."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.config import LayerConfig, weight_shapes
from pellucid.explain.edits import Edit, SwapToken
from pellucid.explain.trace import Trace, trace
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.model.position import inverse_frequencies

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.explain.native import Native

BINS = 64


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be explained: it runs in memory, and (where it came from one) it lies in files.

    ``stored``: our weight name → the dtype and bytes that the file holds it in; by default, as it is in memory.
    ``native``: the compiled program, where that is what is explained; ``decoder`` is then its twin in torch.
    """

    decoder: Decoder
    tokenizer: Any
    name: str
    native: Native | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        decoder: Decoder,
        tokenizer: Any,
        name: str | None = None,
        native: Native | None = None,
    ) -> Subject:
        """The subject of an opened checkpoint and the decoder that was loaded from it."""
        stored = {weight: checkpoint.weights[weight] for weight in weight_shapes(checkpoint.config)}
        return cls(
            decoder=decoder,
            tokenizer=tokenizer,
            name=name or Path(checkpoint.path).stem,
            native=native,
            files={path.name: size for path, size in checkpoint.files.items()},
            stored={weight: (array.dtype, array.nbytes) for weight, array in stored.items()},
        )

    def trace(self, text: Any, edits: Sequence[Edit | SwapToken] = ()) -> Trace:
        """A run of it, every step recorded, by the executor that is explained. Raises: RequestError for edits of a
        native run.
        """
        if self.native is None:
            return trace(self.decoder, self.tokenizer, text, edits=edits)
        if edits:
            raise RequestError(
                "the native executor takes no edits: its program has no place for them",
                remedy="explain it with --executor torch",
            )
        return self.native.trace(self.tokenizer, text)


def describe(subject: Subject) -> dict[str, Any]:
    """The description and its parts, plain enough for JSON."""
    config, decoder = subject.decoder.config, subject.decoder
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
            "final_norm": asdict(config.final_norm) if config.final_norm else None,
            "dtype": str(decoder.dtype).removeprefix("torch."),
            "device": str(decoder.device),
        },
        "native": subject.native.told() if subject.native else None,
        "config_text": text,
        "config_bytes": len(text.encode()),
        "layers": [_layer(layer) for layer in config.layers],
        "files": [{"name": name, "bytes": size, "what": "weights"} for name, size in subject.files.items()],
        "parts": parts,
        "total_parameters": config.num_parameters(),
        "total_bytes": total,
    }


def _layer(layer: LayerConfig) -> dict[str, Any]:
    attention, rope = layer.mixer, layer.mixer.rope
    return {
        "num_heads": attention.num_heads,
        "num_kv_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "scale": attention.softmax_scale,
        "softcap": attention.softcap,
        "window": attention.window,
        "qk_norm": asdict(attention.qk_norm) if attention.qk_norm else None,
        "rope": None
        if rope is None
        else {"dim": rope.dim, "theta": rope.theta, "layout": rope.layout, "frequencies": _frequencies(layer)},
        "mlp": asdict(layer.mlp) | {"experts": layer.experts.num_experts if layer.experts else 0},
        "experts": asdict(layer.experts) if layer.experts else None,
        "norm": asdict(next(iter(layer.norms.values()))),
        "norm_order": "post" if layer.mixer_norms.sum else "pre",
    }


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
