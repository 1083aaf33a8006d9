"""What ``pellucid pretrain`` puts together: texts, tokenizer, model, optimizer, and the run over them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError, RequestError
from pellucid.cli.numbers import count
from pellucid.cli.progress import TrainingProgress
from pellucid.cli.run_config import read_yaml, write_yaml

if TYPE_CHECKING:
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer

RUN_FILE = "run.yaml"
# Flags that may differ when a run goes on: they change nothing that is computed.
FREE = ("eval_every", "eval_rows", "save_every", "keep", "sample_every", "prompt", "device", "threads", "max_minutes", "on_trouble")
SAMPLE_TOKENS = 200


def pretrain(folder: Path, flags: dict[str, Any], *, quiet: bool = False, overwrite: bool = False) -> None:
    """Begin a run, or go on with one. Raises: PellucidError."""
    import torch

    from pellucid.cli.console import notice
    from pellucid.model.decoder import Decoder
    from pellucid.model.load import choose_device
    from pellucid.train import sizes
    from pellucid.train.checkpoint import write_model
    from pellucid.train.data import Stream, Windows
    from pellucid.train.dropout import Dropout
    from pellucid.train.loop import checkpoint_activations
    from pellucid.train.loss import language_loss
    from pellucid.train.optim import OptimSettings, make_optimizers
    from pellucid.train.parallel import Processes
    from pellucid.train.run import Run, RunSettings
    from pellucid.train.schedule import Schedule
    from pellucid.train.shards import make_shards
    from pellucid.train.sources import find_sources

    if not flags["data"]:
        raise RequestError("there is no text to learn from", remedy="-d FILE_OR_FOLDER")
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    torch.use_deterministic_algorithms(flags["deterministic"])
    with Processes(choose_device(flags["device"])) as processes:
        say: Callable[[str], None] = (lambda _: None) if quiet or not processes.first else notice
        if overwrite and processes.first:
            shutil.rmtree(folder, ignore_errors=True)
        sources = find_sources(flags["data"])
        fields = tuple(flags["text_field"] or ("text",))
        with processes.first_before_others():
            tokenizer = _tokenizer(folder / "tokenizer", flags, sources, fields, say)
            shards = make_shards(folder / "data", sources, tokenizer, fields=fields, separator=flags["separator"], progress=say)
        description = sizes.describe(
            flags["model_type"] or sizes.DEFAULT_FAMILY,
            vocab_size=len(tokenizer),
            ids={"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
            tie_embeddings=flags["tie"],
            **{name: flags[name] for name in ("depth", "context_len", "d_model", "num_heads", "num_kv_heads", "d_ff")},
        )
        streams = {split: Stream(shards, split, flags["val_fraction"]) for split in ("train", "val")}
        samples = Windows(streams["train"], flags["context_len"], flags["seed"], flags["mask_documents"])
        held_back = Windows(streams["val"], flags["context_len"], 0, flags["mask_documents"]) if flags["val_fraction"] else None

        tokens_per_step = flags["batch_size"] * flags["context_len"]
        steps = flags["steps"] or sizes.suggested_steps(description, tokens_per_step, len(streams["train"]))
        warmup = min(steps // 50, 1000) if flags["warmup_steps"] is None else flags["warmup_steps"]
        lr = flags["lr"] or sizes.suggested_lr(description.d_model)
        resolved = {
            **flags,
            "data": [str(source) for source in sources],
            "text_field": list(fields),
            "steps": steps,
            "warmup_steps": warmup,
            "lr": lr,
        }
        _agree(folder, resolved)
        if processes.first:
            write_yaml(folder / RUN_FILE, resolved)

        torch.manual_seed(flags["seed"])
        model = Decoder(description).initialize(torch.Generator().manual_seed(flags["seed"])).to(processes.device)
        if flags["checkpoint_activations"]:
            checkpoint_activations(model)
        processes.spread(model)
        torch.manual_seed(flags["seed"] + processes.rank)  # dropout differs between processes
        settings = OptimSettings(lr=lr, **{name: flags[name] for name in ("optimizer", "weight_decay", "beta1", "beta2")})
        loss_function = partial(
            language_loss,
            z_loss=flags["z_loss"],
            recorder=Dropout(flags["dropout"]) if flags["dropout"] else None,
            forward=torch.compile(model.hidden) if flags["compiled"] else None,
        )
        run = Run(
            folder,
            model,
            samples,
            make_optimizers(model, settings),
            Schedule(kind=flags["schedule"], num_steps=steps, warmup_steps=warmup, final_fraction=flags["final_fraction"]),
            RunSettings(
                num_steps=steps,
                lr=lr,
                autocast=torch.bfloat16 if flags["bf16"] else None,
                max_seconds=60 * flags["max_minutes"],
                **{
                    name: flags[name]
                    for name in (
                        *("batch_size", "micro_batch_size", "max_grad_norm", "on_trouble"),
                        *("eval_every", "save_every", "keep", "sample_every"),
                    )
                },
            ),
            loss_function,
            partial(write_model, config=description, tokenizer=tokenizer),
            validation=None if held_back is None else partial(held_back.spread, flags["eval_rows"], 16),
            rank=processes.rank,
            num_ranks=processes.count,
        )
        resumed = run.resume(say)
        say(
            f"{count(description.num_parameters())} parameters, {count(len(samples.stream))} tokens of text, "
            f"{steps} steps of {tokens_per_step:,} tokens" + (f"; going on after step {run.num_done}" if resumed else "")
        )
        flops = sizes.flops_per_token(description, flags["context_len"])
        with TrainingProgress(steps, run.num_done, flops, quiet=quiet or not processes.first) as progress:

            def sample(step: int) -> None:
                text = write_sample(model, tokenizer, flags["prompt"], seed=flags["seed"])
                with open(folder / "samples.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, "text": text}, ensure_ascii=False) + "\n")
                progress.say(f"--- step {step} ---\n{text}\n---")

            run.run(progress.show, sample if processes.count == 1 else lambda _: None)
        if processes.first:
            if run.num_done == steps:
                _publish(run.checkpoints.steps()[-1], folder)
                say(f"done: pellucid generate -m {folder}")
            else:
                say(f"stopped after step {run.num_done} ({run.stop_asked}); the same command goes on from there")


def _tokenizer(folder: Path, flags: dict[str, Any], sources: list[Path], fields: tuple[str, ...], say: Callable[[str], None]) -> Tokenizer:
    """The tokenizer that was asked for: one that is learned is kept in the run, and learned once."""
    from pellucid.auto import AutoTokenizer
    from pellucid.text.load import load_tokenizer
    from pellucid.train.tokenizer import save_tokenizer, train_bpe, train_characters

    if flags["tokenizer"] not in ("bpe", "char"):
        return AutoTokenizer.from_pretrained(flags["tokenizer"])
    if not (folder / "tokenizer.json").is_file():
        say(f"learning a tokenizer from {len(sources)} texts …")
        if flags["tokenizer"] == "char":
            made = train_characters(sources, fields, flags["separator"])
        else:
            made = train_bpe(sources, flags["vocab_size"], fields, flags["separator"])
        save_tokenizer(made, folder, context_len=flags["context_len"])
    return load_tokenizer(folder)


def _agree(folder: Path, resolved: dict[str, Any]) -> None:
    """Raises: ConfigError where the folder holds a run that was begun with other settings."""
    if not (folder / RUN_FILE).is_file():
        return
    before = read_yaml(str(folder / RUN_FILE))
    for name, value in json.loads(json.dumps(resolved)).items():
        if name not in FREE and before.get(name) != value:
            raise ConfigError(
                f"the run here was begun with another {name}",
                where=folder,
                expected=before.get(name),
                received=value,
                remedy="give the same flags to go on, --overwrite to begin anew, or another --out",
            )


def write_sample(model: Decoder, tokenizer: Tokenizer, prompt: str, *, seed: int = 0, max_new_tokens: int = SAMPLE_TOKENS) -> str:
    """A text that the model continues, or begins itself."""
    from pellucid.generate.engine import Engine
    from pellucid.generate.request import Request
    from pellucid.model.executor import TorchExecutor
    from pellucid.sampling import SamplingParams

    ids = tokenizer.encode(prompt, add_special_tokens=False) if prompt else []
    room = model.config.context_len - max(len(ids), 1)
    engine = Engine(TorchExecutor(model), tokenizer)
    request = Request(
        prompt_ids=ids,
        max_new_tokens=max(min(max_new_tokens, room), 1),
        sampling=SamplingParams(do_sample=True, temperature=0.8, top_k=50, seed=seed),
    )
    return prompt + "".join(event.text for event in engine.stream(request.fit(model.config, engine.context_len)))


def _publish(checkpoint: Path, folder: Path) -> None:
    """The finished model, without what only training needs, in the run's own folder."""
    for file in checkpoint.iterdir():
        if not file.name.startswith("training."):
            shutil.copy2(file, folder / file.name)
