"""What ``pellucid pretrain`` brings to a run: texts, a tokenizer, and a model of random weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError, RequestError
from pellucid.cli.runs import options
from pellucid.cli.runs.parts import loss_of, publishing, write_sample
from pellucid.cli.runs.training import FolderRun, Task, open_run
from pellucid.cli.terminal.numbers import count
from pellucid.cli.terminal.words import parameters

if TYPE_CHECKING:
    from pellucid.config import ModelConfig
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.shards import Shards
    from pellucid.train.data.windows import Windows
    from pellucid.train.runs.origins import Origins
    from pellucid.train.runs.parallel import Processes

LEARNED_TOKENIZERS = ("bpe", "char")
SIZES = ("depth", "context_len", "d_model", "num_heads", "num_kv_heads", "d_ff", "num_experts", "experts_per_token")


def pretrain(
    folder: Path, flags: Mapping[str, Any], *, quiet: bool = False, overwrite: bool = False, preview: bool = False
) -> None:
    """Begin a run, go on with one, or show what it would learn. Raises: PellucidError."""
    from pellucid.cli.terminal.preview import show_batch
    from pellucid.train.data.sources import find_sources
    from pellucid.train.objectives.balance import default_balance
    from pellucid.train.runs import sizes
    from pellucid.train.runs.checkpoint import write_description, write_model

    if not flags["data"]:
        raise RequestError("there is no text to learn from", remedy="-d FILE_OR_FOLDER")
    sources = find_sources(flags["data"], but_in=folder)
    refuse_idle_text(sources)
    flags = {**flags, "data": [str(source) for source in sources], "text_field": list(flags["text_field"] or ("text",))}
    with open_run(folder, flags, quiet=quiet, overwrite=overwrite and not preview) as run:
        flags = run.going_on(flags)
        if not preview:
            run.begin(_origins(sources, flags))
        tokenizer, shards = _tokenized(run, sources, flags)
        config = _describe(tokenizer, flags)
        options.refuse_idle(balance=(default_balance(config) is not None, "goes with a mixture of experts"))
        check_memory(config, run.processes)
        samples, held_back = _windows(shards, flags)
        if preview:
            show_batch(samples.shuffled(0, flags["batch_size"]), tokenizer)
            return
        suggested = sizes.suggested_steps(config, flags["batch_size"] * flags["context_len"], len(samples.stream))
        flags = run.resolve(flags, steps=suggested, lr=sizes.suggested_lr(config.d_model))
        flags["balance"] = default_balance(config) if flags["balance"] is None else flags["balance"]
        run.settle(flags)
        model = run.place(_fresh(run, config, flags["seed"]), flags)
        task = Task(
            model=model,
            samples=samples,
            loss_function=loss_of(flags, model),
            write_model=partial(write_model, config=config, tokenizer=tokenizer),
            write_description=partial(write_description, config=config, tokenizer=tokenizer),
            publish_model=publishing(flags["out_dtype"], "float32", tokenizer),
            validation=None if held_back is None else partial(held_back.spread, flags["eval_rows"], 16),
            write_text=partial(write_sample, model, tokenizer, flags["prompt"], seed=flags["seed"]),
            tokenizer=tokenizer,
            row_tokens=flags["context_len"],
            row_flops=flags["context_len"] * sizes.flops_per_token(config, flags["context_len"]),
            about=f"{parameters(config)}, {count(len(samples.stream))} tokens of text",
        )
        if run.train(flags, task):
            run.say(f"done: pellucid generate -m {folder}")


def _tokenized(run: FolderRun, sources: list[Path], flags: Mapping[str, Any]) -> tuple[Tokenizer, Shards]:
    """The first process learns and tokenizes; the others find what it made."""
    from pellucid.train.data.shards import make_shards

    with run.processes.first_before_others():
        tokenizer = _tokenizer(run.folder / "tokenizer", sources, flags, run.say)
        return tokenizer, make_shards(
            run.folder / "data",
            sources,
            tokenizer,
            fields=flags["text_field"],
            separator=flags["separator"],
            progress=run.say,
        )


def _tokenizer(folder: Path, sources: list[Path], flags: Mapping[str, Any], say: Callable[[str], None]) -> Tokenizer:
    """The tokenizer that was asked for: one that is learned is kept in the run, and learned once."""
    from pellucid.auto import AutoTokenizer
    from pellucid.text.load import load_tokenizer
    from pellucid.train.data.tokenizer import save_tokenizer, train_bpe, train_characters

    if flags["tokenizer"] not in LEARNED_TOKENIZERS:
        return AutoTokenizer.from_pretrained(flags["tokenizer"])
    if not (folder / "tokenizer.json").is_file():
        say(f"learning a tokenizer from {len(sources)} texts …")
        if flags["tokenizer"] == "char":
            made = train_characters(sources, flags["text_field"], flags["separator"])
        else:
            made = train_bpe(sources, flags["vocab_size"], flags["text_field"], flags["separator"])
        save_tokenizer(made, folder, context_len=flags["context_len"])
    return load_tokenizer(folder)


def _describe(tokenizer: Tokenizer, flags: Mapping[str, Any]) -> ModelConfig:
    """The model in the sizes asked for, with the tokenizer's vocabulary."""
    from pellucid.train.runs import sizes

    return sizes.describe(
        flags["model_type"] or sizes.DEFAULT_FAMILY,
        sizes.Sizes(**{name: flags[name] for name in SIZES}),
        vocab_size=len(tokenizer),
        ids={name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        tie_embeddings=flags["tie"],
    )


def refuse_idle_text(sources: list[Path]) -> None:
    """Refuse options of a kind of text that there is none of. Raises: RequestError."""
    from pellucid.train.data.record_files import holds_records

    num_json = sum(map(holds_records, sources))
    options.refuse_idle(
        text_field=(num_json > 0, "goes with JSON and tables"),
        separator=(num_json < len(sources), "goes with plain texts"),
    )


def check_memory(config: ModelConfig, processes: Processes) -> None:
    """Raises: ConfigError for a model whose weights, gradients and AdamW's two moments are more than a CPU's memory."""
    if processes.count > 1 or processes.device.type != "cpu" or not hasattr(os, "sysconf"):
        return
    needed, there = 16 * config.num_parameters(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            "the model is too large to be trained here",
            expected=f"at most {there / 2**30:.1f} GiB of weights, gradients and optimizer state: this machine's",
            received=f"{needed / 2**30:.1f} GiB, of {parameters(config)}",
            remedy="a smaller --depth, or --d-model",
        )


def _origins(sources: list[Path], flags: Mapping[str, Any]) -> Origins:
    """The texts; and the tokenizer, where it is not learned from them."""
    from pellucid.auto import AutoTokenizer
    from pellucid.train.data.shards import tokenizer_hash
    from pellucid.train.runs.origins import Origins

    name = flags["tokenizer"]
    is_learned = name in LEARNED_TOKENIZERS
    return Origins.of(
        sources, {} if is_learned else {"the tokenizer": tokenizer_hash(AutoTokenizer.from_pretrained(name))}
    )


def _windows(shards: Shards, flags: Mapping[str, Any]) -> tuple[Windows, Windows | None]:
    """What it learns from, and what is held back to validate."""
    from pellucid.train.data.windows import Stream, Windows

    train, val = (Stream(shards, split, flags["val_fraction"]) for split in ("train", "val"))
    samples = Windows(train, flags["context_len"], flags["seed"], flags["mask_documents"])
    return samples, Windows(val, flags["context_len"], 0, flags["mask_documents"]) if flags["val_fraction"] else None


def _fresh(run: FolderRun, config: ModelConfig, seed: int) -> Decoder:
    import torch

    return run.processes.fresh(config, torch.Generator().manual_seed(seed))
