"""Which weights of a fine-tuning learn, how they are kept, and what becomes of them in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.runs.checkpoint import ReadModel, WriteModel

# Of the rate that suits training from random weights, at the same width: LoRA takes ten times what all weights do
# (Schulman et al. 2025, *LoRA Without Regret*), and a preference, which compares sums over whole answers, a tenth of
# either; ORPO learns to say the chosen answer as well, and lies between.
LR_OF_METHOD = {"full": 0.1, "lora": 1.0, "dpo": 0.1, "dpo-full": 0.01, "orpo": 0.3, "orpo-full": 0.03}
LR_OF_METHOD |= {"simpo": 0.1, "simpo-full": 0.01, "kto": 0.1}
BETA_OF_METHOD = {"simpo": 2.0}
USUAL_BETA = 0.1


def learns_whole(flags: Mapping[str, Any]) -> bool:
    """All weights learn, not LoRA's alone."""
    return flags["method"].endswith("full")


def kind_of(flags: Mapping[str, Any]) -> str:
    """What is learned from, and how, whichever weights learn it: dpo, orpo, simpo, kto; else lora or full."""
    return flags["method"].removesuffix("-full")


def learns_from_pairs(flags: Mapping[str, Any]) -> bool:
    return kind_of(flags) in ("dpo", "orpo", "simpo")


@dataclass(frozen=True)
class Learning:
    """A model, some of whose parameters learn, and how they are kept."""

    model: Decoder
    write_model: WriteModel
    read_model: ReadModel | None = None
    write_description: Callable[[Path], None] | None = None


def all_weights(checkpoint: Checkpoint, tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Learning:
    """All weights learn."""
    from pellucid.model.load import load_decoder
    from pellucid.train.measure.finite import check_weights
    from pellucid.train.runs.checkpoint import write_description, write_model

    model = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu").requires_grad_()
    check_weights(model)
    about: dict[str, Any] = {
        "config": checkpoint.config,
        "tokenizer": tokenizer,
        "generation_config": checkpoint.generation_config,
    }
    return Learning(model, partial(write_model, **about), write_description=partial(write_description, **about))


def low_rank(checkpoint: Checkpoint, tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Learning:
    """Low-rank updates learn; the weights stay as they are."""
    import torch

    from pellucid.checkpoint.adapters.adapted import fingerprint_of
    from pellucid.model.load import load_decoder
    from pellucid.train.lora import LoraSettings, attach_lora, read_lora, write_lora
    from pellucid.train.measure.finite import check_weights

    model = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu", flags["quantize"])
    check_weights(model)
    targets, saved = (
        tuple((flags[name] or "").replace(",", " ").split()) for name in ("lora_targets", "modules_to_save")
    )
    settings = LoraSettings(
        flags["lora_rank"],
        flags["lora_alpha"] or 2 * flags["lora_rank"],
        targets,
        flags["lora_dropout"],
        flags["rslora"],
        flags["dora"],
        saved,
    )
    attach_lora(model, settings, torch.Generator().manual_seed(flags["seed"]))
    base = checkpoint.path  # of a run that is not done, its newest step
    write = partial(
        write_lora,
        model=model,
        settings=settings,
        base=str(base.resolve()) if Path(flags["model"]).exists() else flags["model"],
        base_sha256=fingerprint_of(checkpoint),
        tokenizer=tokenizer,
    )
    return Learning(model, write, read_lora)


def merge_adapter(folder: Path, dtype: str) -> None:
    """The adapter in the folder gives way to the model that it makes of its base."""
    from pellucid.checkpoint.adapters.adapted import open_adapted, save_merged
    from pellucid.checkpoint.adapters.adapter import CONFIG, TENSORS

    save_merged(open_adapted(folder), folder, dtype)
    for name in (CONFIG, TENSORS):
        (folder / name).unlink()


def forget_merged(folder: Path) -> None:
    """What was merged when the run was done before: the adapter is newer, and the folder's model."""
    from pellucid.checkpoint.find import NAMES

    for name in (*NAMES, *(path.name for path in folder.glob("model-*-of-*.safetensors"))):
        (folder / name).unlink(missing_ok=True)


def stored_dtype(checkpoint: Checkpoint) -> str:
    """The dtype that a tuned model is written in where none is asked for: its base's; bfloat16 for one in blocks."""
    from pellucid.checkpoint.weights import FLOATS

    sizes: dict[str, int] = {}
    for array in checkpoint.stored.values():
        if array.is_blocks:
            return "bfloat16"
        sizes[array.dtype] = sizes.get(array.dtype, 0) + math.prod(array.shape)
    most = max(sizes, key=lambda dtype: sizes[dtype])  # routers may be float32 in a model of bfloat16
    return most if most in FLOATS else "bfloat16"


def written(folder: Path, checkpoint: Checkpoint, flags: Mapping[str, Any]) -> str:
    """What there is in the end, and how large: ``model.safetensors: bfloat16, 269 MB``."""
    from pellucid.checkpoint.open import open_checkpoint

    adapter = folder / "adapter_model.safetensors"
    if not learns_whole(flags) and not flags["merge"]:
        return f"{adapter.name}: {adapter.stat().st_size / 1e6:,.1f} MB beside a base of {_megabytes(checkpoint)}"
    made = open_checkpoint(folder)
    text = f"model.safetensors: {made.weights['embed.weight'].dtype}, {_megabytes(made)}"
    if any(array.is_blocks for array in checkpoint.stored.values()) and not learns_whole(flags):
        text += f" (the base, in blocks: {_megabytes(checkpoint)}; --no-merge keeps the adapter alone)"
    return text


def _megabytes(checkpoint: Checkpoint) -> str:
    return f"{sum(checkpoint.files.values()) / 1e6:,.1f} MB"
