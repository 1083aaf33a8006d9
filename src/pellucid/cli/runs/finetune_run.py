"""What ``pellucid finetune`` brings to a run: a model that can do something, and examples of what it should do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import RequestError
from pellucid.cli.runs.comparing import comparing_loss, judge, with_reference
from pellucid.cli.runs.evaluate_run import block_formats
from pellucid.cli.runs.learning import (
    BETA_OF_METHOD,
    LR_OF_METHOD,
    USUAL_BETA,
    all_weights,
    forget_merged,
    kind_of,
    learns_from_pairs,
    learns_whole,
    low_rank,
    merge_adapter,
    stored_dtype,
    written,
)
from pellucid.cli.runs.parts import loss_of, publishing, write_answer
from pellucid.cli.runs.training import FolderRun, Task, open_run
from pellucid.cli.terminal.numbers import count

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.example_batches import ExampleBatches
    from pellucid.train.data.example_store import Examples
    from pellucid.train.data.masks import Masking
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
        flags["beta"] = BETA_OF_METHOD.get(kind_of(flags), USUAL_BETA)
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
                + ("" if learns_whole(flags) else ", and the new one goes on top of it")
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
        learning = (
            all_weights(checkpoint, tokenizer, flags) if learns_whole(flags) else low_rank(checkpoint, tokenizer, flags)
        )
        if examples.good is not None and (remark := check_both(examples.good.tolist())):
            run.say(remark)
        if kind_of(flags) == "dpo":
            samples, held_back = with_reference(run, learning.model, samples, held_back, checkpoint, flags)
        model = run.place(learning.model, flags)
        task = Task(
            model=model,
            samples=samples,
            loss_function=loss_of(flags, model) if kind_of(flags) in ("lora", "full") else comparing_loss(flags, model),
            write_model=learning.write_model,
            read_model=learning.read_model,
            write_description=learning.write_description,
            publish_model=publishing(flags["out_dtype"], stored_dtype(checkpoint), tokenizer)
            if learns_whole(flags)
            else None,
            validation=None
            if held_back is None
            else partial(held_back.spread, flags["eval_rows"], flags["batch_size"]),
            judge=None if kind_of(flags) in ("lora", "full") else partial(judge, flags=flags),
            write_text=_answers(model, tokenizer, masking, held_back or samples, flags),
            tokenizer=tokenizer,
            row_tokens=round(samples.mean_places),
            row_flops=_row_flops(model, samples),
            about=f"{_learned(model)}, {len(samples):,} {'pairs' if examples.paired else 'rows'} an epoch",
        )
        # No check for spikes: of few examples, some are much harder than others.
        if run.train(flags | {"spike": 0.0}, task) and run.processes.first:
            if not learns_whole(flags) and flags["merge"]:
                merge_adapter(folder, stored_dtype(checkpoint) if flags["out_dtype"] == "auto" else flags["out_dtype"])
            elif not learns_whole(flags):
                forget_merged(folder)
            run.say(written(folder, checkpoint, flags))
            run.say(f"done: pellucid {'chat' if masking.has_chat_format else 'generate'} -m {folder}")


def _check(checkpoint: Checkpoint, flags: Mapping[str, Any]) -> None:
    """Raises: RequestError for flags that contradict each other, or the model."""
    if flags["modules_to_save"] and kind_of(flags) == "kto":
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
    if flags["quantize"] and learns_whole(flags):
        raise RequestError(
            "quantized weights cannot be trained themselves",
            remedy=f"--method {'lora' if kind_of(flags) == 'full' else kind_of(flags)}, or leave out --quantize",
        )
    if flags["pack"] and (learns_from_pairs(flags) or kind_of(flags) == "kto"):
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
        paired=learns_from_pairs(flags),
        judged=kind_of(flags) == "kto",
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
