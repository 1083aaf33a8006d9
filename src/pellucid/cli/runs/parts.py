"""What the flags of training ask for, made: loss, dropout, optimizers, schedule, settings, record; texts to look at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from pellucid.model.context import Recorder
    from pellucid.model.decoder import Decoder
    from pellucid.sampling import SamplingParams
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.batch import Batch
    from pellucid.train.objectives.loss import Forward
    from pellucid.train.runs.loop import LossFunction
    from pellucid.train.runs.record import RunRecord
    from pellucid.train.runs.run import RunSettings, Samples
    from pellucid.train.runs.schedule import Schedule

SAMPLE_TOKENS = 200


def loss_of(flags: Mapping[str, Any], model: Decoder) -> LossFunction:
    """Cross-entropy of a model that was placed, with the z-loss, dropout and compilation that were asked for."""
    from functools import partial

    from pellucid.train.objectives.loss import language_loss

    return partial(
        language_loss, z_loss=flags["z_loss"], balance=flags.get("balance") or 0.0, **forward_settings(flags, model)
    )


def forward_settings(flags: Mapping[str, Any], model: Decoder) -> dict[str, Any]:
    """What every loss takes about its forward pass: the dropout and the compilation that were asked for."""
    return {
        "recorder": dropout_of(flags),
        "attention_dropout": flags["attention_dropout"],
        "forward": forward_of(flags, model),
    }


def forward_of(flags: Mapping[str, Any], model: Decoder) -> Forward | None:
    """What stands in for ``model.hidden`` where it is compiled; None where it is not."""
    if not flags["compiled"]:
        return None
    from pellucid.train.runs.compile import compiled_forward

    return compiled_forward(model)


def dropout_of(flags: Mapping[str, Any]) -> Recorder | None:
    """A recorder for each forward pass of training; None without dropout."""
    from pellucid.train.dropout import Dropout

    return Dropout(flags["dropout"]) if flags["dropout"] else None


def autocast_of(flags: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype of training's matrix products, where it is not that of the weights."""
    import torch

    return torch.bfloat16 if flags["bf16"] else None


def optimizers_of(flags: Mapping[str, Any], model: Decoder) -> list[Optimizer]:
    from pellucid.train.runs.optim import OptimSettings, make_optimizers

    return make_optimizers(
        model, OptimSettings(**{name: flags[name] for name in ("optimizer", "lr", "weight_decay", "beta1", "beta2")})
    )


def schedule_of(flags: Mapping[str, Any]) -> Schedule:
    from pellucid.train.runs.schedule import Schedule

    rates = {name: flags[name] for name in ("warmup_steps", "final_fraction")}
    return Schedule(kind=flags["schedule"], num_steps=flags["steps"], **rates)


def publishing(out_dtype: str, auto: str, tokenizer: Tokenizer) -> Callable[[Path, Path], None] | None:
    """What makes the finished model of a checkpoint, whose weights are float32, in the dtype that was asked for; None
    where a copy is that.
    """
    dtype = auto if out_dtype == "auto" else out_dtype
    if dtype == "float32":
        return None

    def publish(checkpoint: Path, folder: Path) -> None:
        from pellucid.checkpoint.open import open_checkpoint
        from pellucid.checkpoint.save import save_checkpoint

        made = open_checkpoint(checkpoint)
        save_checkpoint(folder, made.config, made.weights, generation_config=made.generation_config, dtype=dtype)
        tokenizer.save_pretrained(folder)

    return publish


def settings_of(flags: Mapping[str, Any]) -> RunSettings:
    from pellucid.train.runs.run import RunSettings

    names = (
        "batch_size",
        "micro_batch_size",
        "lr",
        "max_grad_norm",
        "on_trouble",
        "eval_every",
        "save_every",
        "keep",
        "keep_best",
        "patience",
        "sample_every",
    )
    return RunSettings(
        num_steps=flags["steps"],
        autocast=autocast_of(flags),
        max_seconds=60 * flags["max_minutes"],
        spike=flags.get("spike", RunSettings.spike),
        **{name: flags[name] for name in names},
    )


def record_of(
    flags: Mapping[str, Any],
    folder: Path,
    model: Decoder,
    samples: Samples,
    validation: Callable[[], Iterable[Batch]] | None,
    tokenizer: Tokenizer | None,
    rank: int,
) -> RunRecord | None:
    """What is kept for looking; None where that was not wanted."""
    from pellucid.train.runs.record import RecordSettings, RunRecord

    if flags.get("record_every") == 0:
        return None
    held_back = None if validation is None else next(iter(validation()), None)
    pieces: dict[str, Any] = {} if tokenizer is None else {"pieces": pieces_of(tokenizer)}
    settings = RecordSettings(every=flags.get("record_every"), autocast=autocast_of(flags), rank=rank, **pieces)
    return RunRecord.of(folder, model, flags["steps"], samples, held_back, settings)


def pieces_of(tokenizer: Tokenizer) -> Callable[[Sequence[int]], list[str]]:
    """How tokens read, each looked up once."""
    from functools import cache

    from pellucid.explain.prompt import piece_of

    read = cache(lambda i: piece_of(tokenizer, i))
    return lambda ids: [read(i) for i in ids]


def write_sample(
    model: Decoder, tokenizer: Tokenizer, prompt: str, *, seed: int = 0, max_new_tokens: int = SAMPLE_TOKENS
) -> str:
    """A text that the model continues, or begins itself."""
    from pellucid.sampling import SamplingParams

    ids = tokenizer.encode(prompt, add_special_tokens=False) if prompt else []
    if not ids and model.config.bos_token_id is None:  # a text begins where another has ended
        ids = [tokenizer.eos_token_id or 0]
    return prompt + _written(
        model, tokenizer, ids, max_new_tokens, SamplingParams(do_sample=True, temperature=0.8, top_k=50, seed=seed)
    )


def write_answer(
    model: Decoder, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop_token_ids: Collection[int]
) -> str:
    """What the model finds likeliest to follow, until one of the stop tokens."""
    from pellucid.sampling import SamplingParams

    return _written(
        model, tokenizer, prompt_ids, SAMPLE_TOKENS, SamplingParams(do_sample=False), stop_token_ids=stop_token_ids
    )


def _written(
    model: Decoder, tokenizer: Tokenizer, ids: Sequence[int], max_new_tokens: int, sampling: SamplingParams, **stop: Any
) -> str:
    from pellucid.generate.engine import Engine
    from pellucid.generate.request import Request
    from pellucid.model.executor import TorchExecutor

    engine = Engine(TorchExecutor(model), tokenizer)
    room = model.config.context_len - max(len(ids), 1)
    request = Request(prompt_ids=ids, max_new_tokens=max(min(max_new_tokens, room), 1), sampling=sampling, **stop)
    return "".join(event.text for event in engine.stream(request))
