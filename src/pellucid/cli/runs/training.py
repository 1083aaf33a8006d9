"""What every command that trains shares: a run in a folder that is begun, gone on with, shown, and finished.

A command brings what is its own (model, samples, loss), and this module the rest::

    with open_run(folder, flags, quiet=quiet, overwrite=overwrite) as run:
        …                                        # texts, tokenizer; the first process before the others
        flags = run.resolve(flags, steps=suggested_steps, lr=suggested_lr)
        run.settle(flags)
        model = run.place(model, flags)
        finished = run.train(flags, model=model, samples=…, loss_function=loss_of(flags, model), write_model=…, …)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError
from pellucid.cli.runs.run_config import read_yaml, write_yaml
from pellucid.cli.terminal.console import notice
from pellucid.cli.terminal.progress import TrainingProgress

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from pellucid.model.context import Recorder
    from pellucid.model.decoder import Decoder
    from pellucid.sampling import SamplingParams
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.batch import Batch
    from pellucid.train.objectives.loss import Forward
    from pellucid.train.runs.checkpoint import ReadModel, WriteModel
    from pellucid.train.runs.loop import LossFunction
    from pellucid.train.runs.parallel import Processes
    from pellucid.train.runs.record import RunRecord
    from pellucid.train.runs.run import Judge, RunSettings, Samples, Step
    from pellucid.train.runs.schedule import Schedule
    from pellucid.train.runs.tensorboard import EventFiles

RUN_FILE, SAMPLES_FILE = "run.yaml", "samples.jsonl"
# Flags that may differ when a run goes on: they change nothing that is computed.
FREE = {
    "eval_every",
    "eval_rows",
    "save_every",
    "keep",
    "sample_every",
    "prompt",
    "device",
    "threads",
    "max_minutes",
    "on_trouble",
}
FREE |= {"watch", "tensorboard", "record_every"}
SAMPLE_TOKENS = 200


@contextmanager
def open_run(
    folder: Path, flags: Mapping[str, Any], *, quiet: bool = False, overwrite: bool = False
) -> Iterator[FolderRun]:
    """The run of a folder, over the processes that torchrun started; one, where it started none."""
    import torch

    from pellucid.model.load import choose_device
    from pellucid.train.runs.parallel import Processes

    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    if (
        torch.are_deterministic_algorithms_enabled() != flags["deterministic"]
    ):  # to say it imports torch's compiler: 1.6 s
        torch.use_deterministic_algorithms(flags["deterministic"])
    with Processes(choose_device(flags["device"])) as processes:
        if flags["batch_size"] % processes.count:
            raise ConfigError(
                "the rows of a step must be shared evenly",
                expected=f"--batch-size a multiple of {processes.count} processes",
                received=flags["batch_size"],
            )
        if overwrite and processes.first:
            shutil.rmtree(folder, ignore_errors=True)
        yield FolderRun(folder, processes, quiet or not processes.first)


@dataclass(frozen=True)
class FolderRun:
    """A run in its folder, before it is known what is trained."""

    folder: Path
    processes: Processes
    quiet: bool  # so is every process but the first

    def say(self, text: str) -> None:
        if not self.quiet:
            notice(text)

    def resolve(self, flags: Mapping[str, Any], *, steps: int, lr: float) -> dict[str, Any]:
        """The flags with what was left open: ``steps`` and ``lr`` where none were given, the warm-up that follows from
        them.
        """
        steps = flags["steps"] or steps
        warmup = min(steps // 50, 1000) if flags["warmup_steps"] is None else flags["warmup_steps"]
        return {**flags, "steps": steps, "warmup_steps": warmup, "lr": flags["lr"] or lr}

    def settle(self, flags: Mapping[str, Any]) -> None:
        """Keep the resolved flags in the folder, as a file for ``--config``.

        Raises: ConfigError where the folder holds a run that was begun with others.
        """
        path, resolved = self.folder / RUN_FILE, json.loads(json.dumps(dict(flags)))
        before = read_yaml(str(path)) if path.is_file() else resolved
        for name, value in resolved.items():
            if (
                name not in FREE and before.get(name, value) != value
            ):  # a flag that is younger than the run was not given
                raise ConfigError(
                    f"the run here was begun with another {name}",
                    where=self.folder,
                    expected=before.get(name),
                    received=value,
                    remedy="give the same flags to go on, --overwrite to begin anew, or another --out",
                )
        if self.processes.first:
            write_yaml(path, resolved)

    def place(self, model: Decoder, flags: Mapping[str, Any]) -> Decoder:
        """The model, ready to be trained: on its device, its layers checkpointed and spread over processes as asked;
        seeds dropout.
        """
        import torch

        from pellucid.train.runs.loop import checkpoint_activations

        model = model.to(self.processes.device)
        if flags["checkpoint_activations"]:
            checkpoint_activations(model)
        self.processes.spread(model)
        torch.manual_seed(flags["seed"] + self.processes.rank)  # dropout differs between processes
        return model

    def train(
        self,
        flags: Mapping[str, Any],
        *,
        model: Decoder,
        samples: Samples,
        loss_function: LossFunction,
        write_model: WriteModel,
        read_model: ReadModel | None = None,
        write_description: Callable[[Path], None] | None = None,
        validation: Callable[[], Iterable[Batch]] | None = None,
        judge: Judge | None = None,
        write_text: Callable[[], str] | None = None,
        tokenizer: Tokenizer | None = None,
        row_tokens: int,
        row_flops: float,
        about: str,
    ) -> bool:
        """Train to the end, or until something stops it; True at the end, and then the model is in the folder itself.

        ``model`` is one that was placed, and ``flags`` are resolved. ``write_model`` puts parameters by name into a
        checkpoint's folder, ``read_model`` takes them back (None: a whole model's). ``write_description``, ``judge``:
        see ``Run``. ``write_text`` gives a sample. ``tokenizer``, ``row_tokens`` and ``row_flops`` (of a sample, on
        average), and ``about``, the model and the data in a few words, are for the eye alone.
        """
        from pellucid.train.runs.checkpoint import read_model as read_whole_model
        from pellucid.train.runs.run import Run

        steps, settings = flags["steps"], settings_of(flags)
        run = Run(
            self.folder,
            model,
            samples,
            optimizers_of(flags, model),
            schedule_of(flags),
            settings,
            loss_function,
            write_model,
            read_model=read_model or read_whole_model,
            write_description=write_description,
            validation=validation,
            judge=judge,
            record=record_of(flags, self, model, samples, validation, tokenizer, settings),
            rank=self.processes.rank,
            num_ranks=self.processes.count,
        )
        resumed = run.resume(self.say)
        tokens = flags["batch_size"] * row_tokens
        self.say(
            f"{about}, {steps} steps of {tokens:,} tokens"
            + (f"; going on after step {run.num_done}" if resumed else "")
        )
        flops, peak = flags["batch_size"] * row_flops, 0.0 if self.quiet else self.matrix_peak(settings)
        with (
            self.watched(flags, run.num_done) as events,
            TrainingProgress(steps, run.num_done, flops, peak=peak, quiet=self.quiet) as progress,
        ):

            def sample(step: int) -> None:
                if write_text is not None and self.processes.count == 1:
                    text = write_text()
                    with open(self.folder / SAMPLES_FILE, "a", encoding="utf-8") as file:
                        file.write(json.dumps({"step": step, "text": text}, ensure_ascii=False) + "\n")
                    progress.say(f"--- step {step} ---\n{text}\n---")
                    if events:
                        events.write_text(step, text)

            def show(step: Step) -> None:
                progress.show(step)
                if events:
                    events.write(step)

            run.run(show, sample)
        finished = run.num_done == steps
        if not finished:
            self.say(f"stopped after step {run.num_done} ({run.stop_asked}); the same command goes on from there")
        elif self.processes.first:
            run.publish()
        return finished

    def matrix_peak(self, settings: RunSettings) -> float:
        """Operations per second that the matrix products of all processes could reach, in the dtype of training."""
        import torch

        from pellucid.train.runs.peak import matrix_peak

        return self.processes.count * matrix_peak(self.processes.device, settings.autocast or torch.float32)

    @contextmanager
    def watched(self, flags: Mapping[str, Any], num_done: int) -> Iterator[EventFiles | None]:
        """Whatever else shows the run while it goes: the page, TensorBoard's files."""
        if not self.processes.first:
            yield None
            return
        with ExitStack() as stack:
            if flags.get("watch") is not None:
                from pellucid.explain.training.view import watch_run

                self.say(f"watch it learn: {stack.enter_context(watch_run(self.folder, flags['watch']))}")
            events = None
            if flags.get("tensorboard"):
                from pellucid.train.runs.tensorboard import EventFiles

                events = EventFiles(self.folder, num_done)
                stack.callback(events.close)
            yield events


def record_of(
    flags: Mapping[str, Any],
    run: FolderRun,
    model: Decoder,
    samples: Samples,
    validation: Callable[[], Iterable[Batch]] | None,
    tokenizer: Tokenizer | None,
    settings: RunSettings,
) -> RunRecord | None:
    """What is kept for looking; None where that was not wanted."""
    from pellucid.train.runs.record import RunRecord

    if flags.get("record_every") == 0:
        return None
    held_back = None if validation is None else next(iter(validation()), None)
    its: dict[str, Any] = {} if tokenizer is None else {"pieces": pieces_of(tokenizer)}
    return RunRecord.of(
        run.folder,
        model,
        settings.num_steps,
        samples,
        held_back,
        every=flags.get("record_every"),
        autocast=settings.autocast,
        rank=run.processes.rank,
        **its,
    )


def pieces_of(tokenizer: Tokenizer) -> Callable[[Sequence[int]], list[str]]:
    """How tokens read, each looked up once."""
    from functools import cache

    from pellucid.explain.prompt import piece_of

    read = cache(lambda i: piece_of(tokenizer, i))
    return lambda ids: [read(i) for i in ids]


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

    its = {name: flags[name] for name in ("warmup_steps", "final_fraction")}
    return Schedule(kind=flags["schedule"], num_steps=flags["steps"], **its)


def settings_of(flags: Mapping[str, Any]) -> RunSettings:
    from pellucid.train.runs.run import RunSettings

    its = (
        "batch_size",
        "micro_batch_size",
        "lr",
        "max_grad_norm",
        "on_trouble",
        "eval_every",
        "save_every",
        "keep",
        "sample_every",
    )
    return RunSettings(
        num_steps=flags["steps"],
        autocast=autocast_of(flags),
        max_seconds=60 * flags["max_minutes"],
        spike=flags.get("spike", RunSettings.spike),
        **{name: flags[name] for name in its},
    )


def write_sample(
    model: Decoder, tokenizer: Tokenizer, prompt: str, *, seed: int = 0, max_new_tokens: int = SAMPLE_TOKENS
) -> str:
    """A text that the model continues, or begins itself."""
    from pellucid.sampling import SamplingParams

    ids = tokenizer.encode(prompt, add_special_tokens=False) if prompt else []
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
