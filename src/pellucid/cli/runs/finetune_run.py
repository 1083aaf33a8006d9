"""What ``pellucid finetune`` brings to a run: a model that can do something, and examples of what it should do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pellucid.base.errors import RequestError
from pellucid.cli.runs.evaluate_run import block_formats
from pellucid.cli.runs.parts import autocast_of, forward_settings, loss_of, publishing, write_answer
from pellucid.cli.runs.training import FolderRun, Task, open_run
from pellucid.cli.terminal.numbers import count

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.batch import Batch
    from pellucid.train.data.example_batches import ExampleBatches
    from pellucid.train.data.example_store import Examples
    from pellucid.train.data.masks import Masking
    from pellucid.train.objectives.judged import JudgedSettings
    from pellucid.train.objectives.preference import PreferenceSettings
    from pellucid.train.runs.checkpoint import ReadModel, WriteModel
    from pellucid.train.runs.loop import LossFunction
    from pellucid.train.runs.origins import Origins

USUAL_CONTEXT = 1024


def finetune(
    folder: Path, flags: Mapping[str, Any], *, quiet: bool = False, overwrite: bool = False, preview: bool = False
) -> None:
    """Begin a run, go on with one, or show what it would learn. Raises: PellucidError."""
    from pellucid.auto import open_model, tokenizer_of
    from pellucid.checkpoint.adapters.adapted import is_adapter
    from pellucid.cli.terminal.preview import show_batch
    from pellucid.train.data.example_store import describe
    from pellucid.train.data.records import SUFFIXES
    from pellucid.train.data.sources import find_sources
    from pellucid.train.objectives.judged import check_both
    from pellucid.train.runs.sizes import suggested_lr

    if not flags["data"]:
        raise RequestError("there is nothing to learn from", remedy="-d FILE, JSON lines of messages for one")
    sources = find_sources(flags["data"], SUFFIXES, but_in=folder)
    checkpoint = open_model(flags["model"], offline=flags["offline"])
    flags = {**flags, "data": [str(source) for source in sources], "fill": list(flags["fill"])}
    if flags["beta"] is None:
        flags["beta"] = BETA_OF_METHOD.get(_kind(flags), USUAL_BETA)
    flags["context_len"] = flags["context_len"] or min(USUAL_CONTEXT, checkpoint.config.context_len)
    _check(checkpoint, flags)
    with open_run(folder, flags, quiet=quiet, overwrite=overwrite and not preview) as run:
        flags = run.going_on(flags)
        tokenizer = tokenizer_of(checkpoint)
        if not preview:
            run.begin(_origins(sources, tokenizer, checkpoint, flags))
        if is_adapter(checkpoint.path):
            run.say(
                f"{checkpoint.path} is an adapter: what it makes of its base is what learns"
                + ("" if _whole(flags) else ", and the new one goes on top of it")
            )
        if flags["quantize"] and (formats := block_formats(checkpoint)):
            run.say(f"the model's matrices are in blocks already ({', '.join(formats)}), and stay as they are")
        masking, examples = _tokenized(run, sources, tokenizer, checkpoint, flags)
        run.say(describe(examples.counts))
        samples, held_back = _split(examples, tokenizer, flags)
        if flags["pack"]:
            fill = samples.mean_places / flags["context_len"]
            num_packed = sum(len(row) for sample in samples.samples for row in sample)
            run.say(f"packed: {num_packed:,} sequences in {len(samples):,} rows, {fill:.1%} of their places filled")
        if preview:
            show_batch(samples.shuffled(0, min(flags["batch_size"], len(samples))), tokenizer)
            return
        steps = max(round(flags["epochs"] * len(samples) / flags["batch_size"]), 1)
        flags = run.resolve(
            flags, steps=steps, lr=suggested_lr(checkpoint.config.d_model) * LR_OF_METHOD[flags["method"]]
        )
        run.settle(flags)
        learning = _all_weights(checkpoint, tokenizer, flags) if _whole(flags) else _lora(checkpoint, tokenizer, flags)
        if examples.good is not None and (remark := check_both(examples.good.tolist())):
            run.say(remark)
        if _kind(flags) == "dpo":
            samples, held_back = _with_reference(run, learning.model, samples, held_back, checkpoint, flags)
        model = run.place(learning.model, flags)
        task = Task(
            model=model,
            samples=samples,
            loss_function=loss_of(flags, model) if _kind(flags) in ("lora", "full") else _comparing_loss(flags, model),
            write_model=learning.write_model,
            read_model=learning.read_model,
            write_description=learning.write_description,
            publish_model=publishing(flags["out_dtype"], stored_dtype(checkpoint), tokenizer)
            if _whole(flags)
            else None,
            validation=None
            if held_back is None
            else partial(held_back.spread, flags["eval_rows"], flags["batch_size"]),
            judge=None if _kind(flags) in ("lora", "full") else partial(_judge, flags=flags),
            write_text=_answers(model, tokenizer, masking, held_back or samples, flags),
            tokenizer=tokenizer,
            row_tokens=round(samples.mean_places),
            row_flops=_row_flops(model, samples),
            about=f"{_learned(model)}, {len(samples):,} {'pairs' if examples.paired else 'rows'} an epoch",
        )
        # No check for spikes: of few examples, some are much harder than others.
        if run.train(flags | {"spike": 0.0}, task) and run.processes.first:
            if not _whole(flags) and flags["merge"]:
                _merge(folder, stored_dtype(checkpoint) if flags["out_dtype"] == "auto" else flags["out_dtype"])
            elif not _whole(flags):
                _forget_merged(folder)
            run.say(_written(folder, checkpoint, flags))
            run.say(f"done: pellucid {'chat' if masking.has_chat_format else 'generate'} -m {folder}")


# Of the rate that suits training from random weights, at the same width: LoRA takes ten times what all weights do
# (Schulman et al. 2025, *LoRA Without Regret*), and a preference, which compares sums over whole answers, a tenth of
# either; ORPO learns to say the chosen answer as well, and lies between.
LR_OF_METHOD = {"full": 0.1, "lora": 1.0, "dpo": 0.1, "dpo-full": 0.01, "orpo": 0.3, "orpo-full": 0.03}
LR_OF_METHOD |= {"simpo": 0.1, "simpo-full": 0.01, "kto": 0.1}
BETA_OF_METHOD = {"simpo": 2.0}
USUAL_BETA = 0.1


@dataclass(frozen=True)
class Learning:
    """A model, some of whose parameters learn, and how they are kept."""

    model: Decoder
    write_model: WriteModel
    read_model: ReadModel | None = None
    write_description: Callable[[Path], None] | None = None


def _whole(flags: Mapping[str, Any]) -> bool:
    """All weights learn, not LoRA's alone."""
    return flags["method"].endswith("full")


def _kind(flags: Mapping[str, Any]) -> str:
    """What is learned from, and how, whichever weights learn it: dpo, orpo, simpo, kto; else lora or full."""
    return flags["method"].removesuffix("-full")


def _paired(flags: Mapping[str, Any]) -> bool:
    return _kind(flags) in ("dpo", "orpo", "simpo")


def _check(checkpoint: Checkpoint, flags: Mapping[str, Any]) -> None:
    """Raises: RequestError for flags that contradict each other, or the model."""
    if flags["modules_to_save"] and _kind(flags) == "kto":
        raise RequestError(
            "KTO compares with the model without its adapter, and --modules-to-save changes what that is",
            remedy="leave it out, or learn from pairs: --method dpo",
        )
    if flags["context_len"] > checkpoint.config.context_len:
        raise RequestError(
            "--context-len is longer than the model's",
            expected=f"at most {checkpoint.config.context_len}",
            received=flags["context_len"],
        )
    if flags["quantize"] and _whole(flags):
        raise RequestError(
            "quantized weights cannot be trained themselves",
            remedy=f"--method {'lora' if _kind(flags) == 'full' else _kind(flags)}, or leave out --quantize",
        )
    if flags["pack"] and (_paired(flags) or _kind(flags) == "kto"):
        raise RequestError("answers that are compared are not packed", remedy="leave out --pack")
    if malformed := next((one for one in flags["fill"] if "=" not in one), None):
        raise RequestError("--fill takes a name and what takes its place", expected="NAME=TEXT", received=malformed)


def _origins(sources: list[Path], tokenizer: Tokenizer, checkpoint: Checkpoint, flags: Mapping[str, Any]) -> Origins:
    """The records, and what they teach: the base model, its tokenizer, the words that the chat format puts around."""
    from pellucid.cli.terminal.prompts import read_template
    from pellucid.train.data.shards import tokenizer_hash
    from pellucid.train.runs.origins import Origins, base_of, text_hash

    template = tokenizer.chat_template if flags["chat_template"] is None else read_template(flags["chat_template"])
    base = {**base_of(checkpoint), "the tokenizer": tokenizer_hash(tokenizer)}
    return Origins.of(sources, base if template is None else {**base, "the chat template": text_hash(repr(template))})


def _tokenized(
    run: FolderRun, sources: list[Path], tokenizer: Tokenizer, checkpoint: Checkpoint, flags: Mapping[str, Any]
) -> tuple[Masking, Examples]:
    """The first process tokenizes; the others find what it made."""
    from pellucid.cli.runs.session import stop_token_ids
    from pellucid.cli.terminal.prompts import read_template
    from pellucid.train.data.example_store import Making, tokenize_examples
    from pellucid.train.data.masks import Masking

    if flags["chat_template"] is not None:
        tokenizer.chat_template = read_template(flags["chat_template"])  # the result's, too
    masking = Masking(tokenizer, stop_token_ids=stop_token_ids(checkpoint, tokenizer))
    making = Making(
        context_len=flags["context_len"],
        paired=_paired(flags),
        judged=_kind(flags) == "kto",
        on_too_long=flags["on_too_long"],
        fill=dict(one.split("=", 1) for one in flags["fill"]),
        fields=flags["fields"],
        system=flags["system"],
        keep_empty=flags["keep_empty"],
        last_alone=flags["learn"] == "last",
    )
    with run.processes.first_before_others():
        return masking, tokenize_examples(run.folder / "examples", sources, masking, making, run.say)


def _split(
    examples: Examples, tokenizer: Tokenizer, flags: Mapping[str, Any]
) -> tuple[ExampleBatches, ExampleBatches | None]:
    """What it learns from, and what is held back to validate."""
    from pellucid.train.data.example_batches import ExampleBatches, rows_of, split_records

    train, held_back = split_records(examples.records, flags["val_fraction"])
    context_len = flags["context_len"]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    rows = rows_of(train.tolist(), examples, pack_into=context_len if flags["pack"] else None)
    width = context_len if flags["compiled"] else None
    samples = ExampleBatches(examples, rows, pad, flags["seed"], width, context_len=context_len)
    if not len(held_back):
        return samples, None
    return samples, ExampleBatches(examples, rows_of(held_back.tolist(), examples), pad, context_len=context_len)


# --- methods ---------------------------------------------------------------------------------------------------------


def _all_weights(checkpoint: Checkpoint, tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Learning:
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


def _lora(checkpoint: Checkpoint, tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Learning:
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


def _merge(folder: Path, dtype: str) -> None:
    """The adapter in the folder gives way to the model that it makes of its base."""
    from pellucid.checkpoint.adapters.adapted import open_adapted, save_merged
    from pellucid.checkpoint.adapters.adapter import CONFIG, TENSORS

    save_merged(open_adapted(folder), folder, dtype)
    for name in (CONFIG, TENSORS):
        (folder / name).unlink()


def _forget_merged(folder: Path) -> None:
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


def _written(folder: Path, checkpoint: Checkpoint, flags: Mapping[str, Any]) -> str:
    """What there is in the end, and how large: ``model.safetensors: bfloat16, 269 MB``."""
    from pellucid.checkpoint.open import open_checkpoint

    adapter = folder / "adapter_model.safetensors"
    if not _whole(flags) and not flags["merge"]:
        return f"{adapter.name}: {adapter.stat().st_size / 1e6:,.1f} MB beside a base of {_megabytes(checkpoint)}"
    made = open_checkpoint(folder)
    text = f"model.safetensors: {made.weights['embed.weight'].dtype}, {_megabytes(made)}"
    if any(array.is_blocks for array in checkpoint.stored.values()) and not _whole(flags):
        text += f" (the base, in blocks: {_megabytes(checkpoint)}; --no-merge keeps the adapter alone)"
    return text


def _megabytes(checkpoint: Checkpoint) -> str:
    return f"{sum(checkpoint.files.values()) / 1e6:,.1f} MB"


# --- preferences -----------------------------------------------------------------------------------------------------


def _with_reference(
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


def _comparing_settings(flags: Mapping[str, Any]) -> PreferenceSettings | JudgedSettings:
    from pellucid.train.objectives.judged import JudgedSettings
    from pellucid.train.objectives.preference import PreferenceSettings

    match _kind(flags):
        case "kto":
            weights = {name: flags[name] for name in ("good_weight", "bad_weight")}
            return JudgedSettings(beta=flags["beta"], **weights)
        case "simpo":
            return PreferenceSettings(beta=flags["beta"], kind="simpo", gamma=flags["gamma"])
        case "orpo":
            return PreferenceSettings(beta=flags["beta"], kind="orpo")
        case _:
            return PreferenceSettings(beta=flags["beta"])


def _comparing_loss(flags: Mapping[str, Any], model: Decoder) -> LossFunction:
    from pellucid.train.objectives.judged import judged_loss
    from pellucid.train.objectives.preference import preference_loss

    loss: Any = judged_loss if _kind(flags) == "kto" else preference_loss
    return partial(loss, settings=_comparing_settings(flags), **forward_settings(flags, model))


def _judge(model: Decoder, batches: Iterable[Batch], *, flags: Mapping[str, Any]) -> dict[str, float]:
    from pellucid.train.objectives.judged import JudgedSettings, judged_scores
    from pellucid.train.objectives.preference import PreferenceBatch, preference_scores

    settings = _comparing_settings(flags)
    if isinstance(settings, JudgedSettings):
        loss, margin = judged_scores(model, batches, settings, autocast=autocast_of(flags))
        return {"val_loss": loss, "val_margin": margin}
    pairs = cast("list[PreferenceBatch]", list(batches))
    scores = preference_scores(model, pairs, settings, autocast=autocast_of(flags))
    return {"val_loss": scores.loss, "val_margin": scores.margin, "val_accuracy": scores.accuracy}


# --- for the eye -----------------------------------------------------------------------------------------------------


def _learned(model: Decoder) -> str:
    """``4.9 M of 139.4 M parameters learn``."""
    from pellucid.train.runs.checkpoint import trained_parameters

    learned, every = (
        sum(parameter.numel() for parameter in trained_parameters(model).values()),
        model.config.num_parameters(),
    )
    return f"{count(learned)} of {count(every)} parameters learn" if learned < every else f"{count(every)} parameters"


def _row_flops(model: Decoder, samples: ExampleBatches) -> float:
    """Operations that a sample needs on average, forward and backward."""
    from pellucid.train.lora import lora_layers
    from pellucid.train.runs.sizes import flops_per_token

    adapter = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if lora_layers(model)
        else None
    )
    counts, row = samples.examples.counts, samples.mean_places / len(samples.samples[0])
    share = counts.num_learned / counts.num_tokens
    return samples.mean_places * flops_per_token(model.config, round(row), adapter=adapter, head_share=share)


def _answers(
    model: Decoder, tokenizer: Tokenizer, masking: Masking, examples: ExampleBatches, flags: Mapping[str, Any]
) -> Callable[[], str]:
    """What the model answers to the prompt; without one, to the first example that is held back."""
    if flags["prompt"] and masking.has_chat_format:
        asked = [{"role": "user", "content": flags["prompt"]}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    elif flags["prompt"]:
        ids = tokenizer.encode(flags["prompt"])
    else:
        example, learned = examples.examples[examples.samples[0][0][0]]
        ids = example[: int(learned.argmax())].tolist()
    question = flags["prompt"] or tokenizer.decode(ids, skip_special_tokens=True).strip()
    return lambda: f"{question}\n→ {write_answer(model, tokenizer, ids, masking.stop_token_ids)}"
