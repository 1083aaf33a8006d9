"""What ``pellucid pretrain`` brings to a run: texts, a tokenizer, and a model of random weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    from pellucid.train.data.batch import Batch
    from pellucid.train.data.mixture import Mixture
    from pellucid.train.data.streamed import StreamedWindows
    from pellucid.train.data.windows import Windows
    from pellucid.train.runs.origins import Origins
    from pellucid.train.runs.parallel import Processes

PREFIX = "hf:"  # of data sets of the hub, as train.data.hub_datasets has it; that would import too much here
LEARNED_TOKENIZERS = ("bpe", "char")
SIZES = ("depth", "context_len", "d_model", "num_heads", "num_kv_heads", "d_ff", "num_experts", "experts_per_token")


def pretrain(
    folder: Path, flags: Mapping[str, Any], *, quiet: bool = False, overwrite: bool = False, preview: bool = False
) -> None:
    """Begin a run, go on with one, or show what it would learn. Raises: PellucidError."""
    from pellucid.cli.terminal.preview import show_batch
    from pellucid.train.objectives.balance import default_balance
    from pellucid.train.runs import sizes
    from pellucid.train.runs.checkpoint import write_description, write_model

    if not flags["data"]:
        raise RequestError("there is no text to learn from", remedy="-d FILE_OR_FOLDER")
    groups = _groups(flags, folder)
    sources = [source for group in groups for source in group]
    refuse_idle_text([Path(source) for source in sources if not source.startswith(PREFIX)])
    # Shares belong to what was typed; without them a run is made of files, wherever they were found.
    data = [_absolute(name) for name in flags["data"]] if flags["mix"] else sources
    flags = {**flags, "data": data, "text_field": list(flags["text_field"] or ("text",))}
    with open_run(folder, flags, quiet=quiet, overwrite=overwrite and not preview) as run:
        flags = run.going_on(flags)
        if not preview:
            run.begin(_origins(sources, flags))
        tokenizer = _tokenizer_of(run, [Path(source) for source in sources], flags)
        config = _describe(tokenizer, flags)
        options.refuse_idle(balance=(default_balance(config) is not None, "goes with a mixture of experts"))
        check_memory(config, run.processes)
        texts = _streamed(sources, tokenizer, flags) if flags["stream"] else _windows(run, groups, tokenizer, flags)
        if preview:
            show_batch(texts.samples.shuffled(0, flags["batch_size"]), tokenizer)
            return
        row_tokens = flags["batch_size"] * flags["context_len"]
        suggested = 0 if texts.num_tokens is None else sizes.suggested_steps(config, row_tokens, texts.num_tokens)
        flags = run.resolve(flags, steps=suggested, lr=sizes.suggested_lr(config.d_model))
        flags["balance"] = default_balance(config) if flags["balance"] is None else flags["balance"]
        run.settle(flags)
        model = run.place(_fresh(run, config, flags["seed"]), flags)
        task = Task(
            model=model,
            samples=texts.samples,
            loss_function=loss_of(flags, model),
            write_model=partial(write_model, config=config, tokenizer=tokenizer),
            write_description=partial(write_description, config=config, tokenizer=tokenizer),
            publish_model=publishing(flags["out_dtype"], "float32", tokenizer),
            validation=texts.validation,
            write_text=partial(write_sample, model, tokenizer, flags["prompt"], seed=flags["seed"]),
            tokenizer=tokenizer,
            row_tokens=flags["context_len"],
            row_flops=flags["context_len"] * sizes.flops_per_token(config, flags["context_len"]),
            about=f"{parameters(config)}, {texts.about(flags)}",
        )
        if run.train(flags, task):
            run.say(f"done: pellucid generate -m {folder}")


@dataclass(frozen=True)
class Prepared:
    """What is learned from; ``num_tokens`` of it, where that is known."""

    samples: Windows | Mixture | StreamedWindows
    validation: Callable[[], Iterable[Batch]] | None
    num_tokens: int | None

    def about(self, flags: Mapping[str, Any]) -> str:
        from pellucid.train.data.mixture import Mixture

        if self.num_tokens is None:
            return "texts that are read as they are needed"
        text = f"{count(self.num_tokens)} tokens of text"
        if isinstance(self.samples, Mixture):
            epochs = self.samples.epochs(flags["steps"] * flags["batch_size"])
            each = zip(flags["data"], self.samples.shares, epochs, strict=True)
            text += "; " + ", ".join(
                f"{Path(name).name} {share:.0%} of the rows, read {n:.2g} times" for name, share, n in each
            )
        return text


def _groups(flags: Mapping[str, Any], folder: Path) -> list[list[str]]:
    """The files behind each -d, none in two; of a stream a data set of the hub by its name.

    Raises: RequestError for flags that contradict each other.
    """
    from pellucid.train.data.mixture import parse_weights
    from pellucid.train.data.sources import find_sources

    if flags["mix"]:
        parse_weights(flags["mix"], len(flags["data"]))
        if flags["stream"]:
            raise RequestError("--mix and --stream do not go together yet", remedy="leave out one of them")
    if flags["stream"] and flags["tokenizer"] in LEARNED_TOKENIZERS:
        raise RequestError(
            "a stream is not read beforehand, and a tokenizer cannot be learned from it",
            remedy="--tokenizer NAME: a model's, or a folder that `pellucid tokenizer train` made",
        )
    if flags["stream"] and not flags["steps"]:
        raise RequestError("nobody knows how long a stream is", remedy="--steps N")
    taken: set[str] = set()
    groups = []
    for name in flags["data"]:
        if flags["stream"] and name.startswith(PREFIX):
            found = [name]
        else:
            found = [str(path) for path in find_sources([name], but_in=folder)]
        groups.append([one for one in found if one not in taken])
        taken |= {*found}
        if not groups[-1]:
            raise RequestError("all files of this -d are those of another one", where=name)
    return groups


def _absolute(name: str) -> str:
    return name if name.startswith(PREFIX) else str(Path(name).expanduser().absolute())


def _tokenizer_of(run: FolderRun, sources: list[Path], flags: Mapping[str, Any]) -> Tokenizer:
    """The first process learns it; the others find what it made."""
    with run.processes.first_before_others():
        return _tokenizer(run.folder / "tokenizer", sources, flags, run.say)


def _windows(run: FolderRun, groups: list[list[str]], tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Prepared:
    """All texts tokenized, by the first process; what it learns from, and what is held back to validate."""
    from pellucid.train.data.mixture import Mixture, parse_weights
    from pellucid.train.data.shards import make_shards
    from pellucid.train.data.windows import Stream, Windows

    sources = [Path(source) for group in groups for source in group]
    with run.processes.first_before_others():
        shards = make_shards(
            run.folder / "data",
            sources,
            tokenizer,
            fields=flags["text_field"],
            separator=flags["separator"],
            progress=run.say,
        )
    ends = list(accumulate(map(len, groups), initial=0))
    parts = [tuple(range(*pair)) for pair in pairwise(ends)] if flags["mix"] else [None]
    made: dict[str, list[Windows]] = {}
    for split, seed in (("train", flags["seed"]), ("val", 0))[: 2 if flags["val_fraction"] else 1]:
        streams = (Stream(shards, cast("Any", split), flags["val_fraction"], part) for part in parts)
        made[split] = [Windows(one, flags["context_len"], seed, flags["mask_documents"]) for one in streams]
    samples: Windows | Mixture = made["train"][0]
    held_back: Windows | Mixture | None = made["val"][0] if "val" in made else None
    num_tokens = sum(len(one.stream) for one in made["train"])
    if flags["mix"]:
        shares = parse_weights(flags["mix"], len(groups))
        samples = Mixture(made["train"], shares)
        held_back = Mixture(made["val"], shares) if "val" in made else None
    spread = None if held_back is None else partial(held_back.spread, flags["eval_rows"], 16)
    return Prepared(samples, spread, num_tokens)


def _streamed(sources: list[str], tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Prepared:
    """Nothing is tokenized beforehand. Held back are the first windows, as many as are validated."""
    from pellucid.train.data.sources import streamed
    from pellucid.train.data.streamed import StreamedWindows

    def texts() -> Iterator[Iterator[str]]:
        for source in sources:
            yield from streamed(source, flags["text_field"], flags["separator"])

    num_held = flags["eval_rows"] if flags["val_fraction"] else 0
    samples = StreamedWindows(texts, tokenizer, flags["context_len"], flags["seed"], num_held, flags["mask_documents"])
    return Prepared(samples, partial(samples.held_back, 16) if num_held else None, None)


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


def _origins(sources: list[str], flags: Mapping[str, Any]) -> Origins:
    """The texts; and the tokenizer, where it is not learned from them."""
    from pellucid.auto import AutoTokenizer
    from pellucid.train.data.shards import tokenizer_hash
    from pellucid.train.runs.origins import Origins

    name = flags["tokenizer"]
    is_learned = name in LEARNED_TOKENIZERS
    files = [Path(source) for source in sources if not source.startswith(PREFIX)]
    base = {f"the stream {name}": "as the hub has it" for name in sources if name.startswith(PREFIX)}
    return Origins.of(
        files, base if is_learned else {**base, "the tokenizer": tokenizer_hash(AutoTokenizer.from_pretrained(name))}
    )


def _fresh(run: FolderRun, config: ModelConfig, seed: int) -> Decoder:
    import torch

    return run.processes.fresh(config, torch.Generator().manual_seed(seed))
