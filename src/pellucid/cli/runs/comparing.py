"""Fine-tuning on preferences: the reference, the losses that compare answers, and their figures of held-back ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pellucid.cli.runs.learning import kind_of
from pellucid.cli.runs.parts import autocast_of, forward_settings
from pellucid.cli.runs.training import FolderRun

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.model.decoder import Decoder
    from pellucid.train.data.batch import Batch
    from pellucid.train.data.example_batches import ExampleBatches
    from pellucid.train.objectives.judged import JudgedSettings
    from pellucid.train.objectives.preference import PreferenceSettings
    from pellucid.train.runs.loop import LossFunction


def with_reference(
    run: FolderRun,
    model: Decoder,
    samples: ExampleBatches,
    held_back: ExampleBatches | None,
    checkpoint: Checkpoint,
    flags: Mapping[str, Any],
) -> tuple[ExampleBatches, ExampleBatches | None]:
    """The pairs, and what the model makes of each that the run will ask for before it learns anything."""
    from pellucid.cli.terminal.console import status
    from pellucid.train.objectives.reference import reference_log_probs
    from pellucid.train.runs.origins import base_of, text_hash

    pairs = samples.pairs(samples.drawn(flags["steps"] * flags["batch_size"]))
    pairs += [] if held_back is None else held_back.pairs(held_back.chosen(flags["eval_rows"]))
    run.say(f"what the reference makes of {len(pairs):,} pairs is computed once …")
    with status("") as tell:
        table = reference_log_probs(
            model.to(run.processes.device),
            samples.examples,
            pairs,
            identity=f"{text_hash(repr(base_of(checkpoint)))} {flags['quantize'] or 'as stored'}",
            batch_size=flags["micro_batch_size"] or flags["batch_size"],
            autocast=autocast_of(flags),
            rank=run.processes.rank,
            num_ranks=run.processes.count,
            progress=(lambda _: None) if run.quiet else tell,
        )
    return replace(samples, reference=table), None if held_back is None else replace(held_back, reference=table)


def _settings(flags: Mapping[str, Any]) -> PreferenceSettings | JudgedSettings:
    from pellucid.train.objectives.judged import JudgedSettings
    from pellucid.train.objectives.preference import PreferenceSettings

    match kind_of(flags):
        case "kto":
            weights = {name: flags[name] for name in ("good_weight", "bad_weight")}
            return JudgedSettings(beta=flags["beta"], **weights)
        case "simpo":
            return PreferenceSettings(beta=flags["beta"], kind="simpo", gamma=flags["gamma"])
        case "orpo":
            return PreferenceSettings(beta=flags["beta"], kind="orpo")
        case _:
            return PreferenceSettings(beta=flags["beta"])


def comparing_loss(flags: Mapping[str, Any], model: Decoder) -> LossFunction:
    from pellucid.train.objectives.judged import judged_loss
    from pellucid.train.objectives.preference import preference_loss

    loss: Any = judged_loss if kind_of(flags) == "kto" else preference_loss
    return partial(loss, settings=_settings(flags), **forward_settings(flags, model))


def judge(model: Decoder, batches: Iterable[Batch], *, flags: Mapping[str, Any]) -> dict[str, float]:
    from pellucid.train.objectives.judged import JudgedSettings, judged_scores
    from pellucid.train.objectives.preference import PreferenceBatch, preference_scores

    settings = _settings(flags)
    if isinstance(settings, JudgedSettings):
        loss, margin = judged_scores(model, batches, settings, autocast=autocast_of(flags))
        return {"val_loss": loss, "val_margin": margin}
    pairs = cast("list[PreferenceBatch]", list(batches))
    scores = preference_scores(model, pairs, settings, autocast=autocast_of(flags))
    return {"val_loss": scores.loss, "val_margin": scores.margin, "val_accuracy": scores.accuracy}
