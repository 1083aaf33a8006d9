"""What every command that trains shares: a run in a folder that is begun, gone on with, shown, and finished.

A command brings what is its own (model, samples, loss), and this module the rest::

    with open_run(folder, flags, quiet=quiet, overwrite=overwrite) as run:
        flags = run.going_on(flags)              # what was not typed is as the run has it
        …                                        # texts, tokenizer; the first process before the others
        run.begin(origins)                       # the same data and base as before, or refused
        flags = run.resolve(flags, steps=suggested_steps, lr=suggested_lr)
        run.settle(flags)
        model = run.place(model, flags)
        finished = run.train(flags, Task(model=model, samples=…, loss_function=loss_of(flags, model), …))
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pellucid.base.errors import ConfigError
from pellucid.cli.runs.parts import optimizers_of, record_of, schedule_of, settings_of
from pellucid.cli.runs.run_config import read_flags, read_yaml, write_yaml
from pellucid.cli.terminal.console import notice
from pellucid.cli.terminal.progress import TrainingProgress

if TYPE_CHECKING:
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.data.batch import Batch
    from pellucid.train.runs.checkpoint import ReadModel, WriteModel
    from pellucid.train.runs.loop import LossFunction
    from pellucid.train.runs.origins import Origins
    from pellucid.train.runs.parallel import Processes
    from pellucid.train.runs.run import Judge, RunSettings, Samples, Step
    from pellucid.train.runs.trackers import Tracker

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
FREE |= {"watch", "tensorboard", "wandb", "mlflow", "record_every", "keep_best", "patience", "out_dtype", "merge"}
# Flags that change how it goes on learning: those that are typed count from here on, and are told; those that are not
# stay as the run has them.
CHANGEABLE = (
    *("steps", "epochs", "lr", "schedule", "warmup_steps", "final_fraction", "weight_decay", "beta1", "beta2"),
    *("max_grad_norm", "micro_batch_size", "checkpoint_activations"),
)
MAX_PLACES = 2**27  # tokens of a step: 3 GB of ids, targets and positions
# What a run's folder holds before it is a run: what a preview or an interrupted start leaves.
_BEGINNINGS = {"data", "examples", "tokenizer", ".lock"}


@contextmanager
def open_run(
    folder: Path, flags: Mapping[str, Any], *, quiet: bool = False, overwrite: bool = False
) -> Iterator[FolderRun]:
    """The run of a folder, over the processes that torchrun started; one, where it started none.

    Raises: BusyError where another run is going on there; ConfigError.
    """
    import torch

    from pellucid.model.load import choose_device
    from pellucid.train.runs.lock import locked
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
        if (places := flags["batch_size"] * flags["context_len"]) > MAX_PLACES:
            raise ConfigError(
                "the rows of a step are more than any memory holds",
                expected=f"--batch-size times --context-len at most {MAX_PLACES:,}",
                received=f"{places:,}",
            )
        with locked(folder) if processes.first else nullcontext():
            if overwrite and processes.first:
                empty(folder)
            yield FolderRun(folder, processes, quiet or not processes.first)


def empty(folder: Path) -> None:
    """Remove all of a run. Raises: ConfigError where the folder holds something else, which nobody asked to lose."""
    entries = sorted(folder.iterdir())
    others = [entry.name for entry in entries if entry.name not in _BEGINNINGS]
    if others and not (folder / RUN_FILE).is_file():
        raise ConfigError(
            "--overwrite begins a run anew, and the folder holds none",
            where=folder,
            received=", ".join(others)[:200],
            remedy="name another --out, or remove what is there",
        )
    for entry in entries:
        if entry.name != ".lock":  # this process holds it
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a command brings to its run. ``model`` is one that was placed.

    ``write_model`` puts parameters by name into a checkpoint's folder, ``read_model`` takes them back (None: a whole
    model's). ``write_description``, ``publish_model``, ``judge``: see ``train.runs.run.Training``. ``write_text`` gives
    a sample. ``tokenizer``, ``row_tokens`` and ``row_flops`` (of a sample, on average), and ``about``, the model and
    the data in a few words, are for the eye alone.
    """

    model: Decoder
    samples: Samples
    loss_function: LossFunction
    write_model: WriteModel
    read_model: ReadModel | None = None
    write_description: Callable[[Path], None] | None = None
    publish_model: Callable[[Path, Path], None] | None = None
    validation: Callable[[], Iterable[Batch]] | None = None
    judge: Judge | None = None
    write_text: Callable[[], str] | None = None
    tokenizer: Tokenizer | None = None
    row_tokens: int
    row_flops: float
    about: str


@dataclass(frozen=True)
class FolderRun:
    """A run in its folder, before it is known what is trained."""

    folder: Path
    processes: Processes
    quiet: bool  # so is every process but the first

    def say(self, text: str) -> None:
        if not self.quiet:
            notice(text)

    def going_on(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The flags with those that a run may change while it goes on as the folder's run has them, where they were not
        given.
        """
        path = self.folder / RUN_FILE
        if not path.is_file():
            return dict(flags)
        before = _flags_of(path)
        kept = {name for name in CHANGEABLE if name in before and name in flags and not _is_given(name)}
        if _is_given("epochs"):
            kept -= {"steps"}  # they follow from the epochs
        return {**flags, **{name: before[name] for name in kept}}

    def resolve(self, flags: Mapping[str, Any], *, steps: int, lr: float) -> dict[str, Any]:
        """The flags with what was left open: ``steps`` and ``lr`` where none were given, the warm-up that follows from
        them.
        """
        steps = flags["steps"] or steps
        warmup = min(steps // 50, 1000) if flags["warmup_steps"] is None else flags["warmup_steps"]
        return {**flags, "steps": steps, "warmup_steps": warmup, "lr": flags["lr"] or lr}

    def begin(self, origins: Origins) -> None:
        """Say what the run is made of, before anything is made of it.

        Raises: ConfigError where the folder holds a run that was begun with other data, or another model.
        """
        if self.processes.first:
            if (self.folder / RUN_FILE).is_file():
                origins.check(self.folder)
            origins.keep(self.folder)

    def settle(self, flags: Mapping[str, Any]) -> None:
        """Keep the resolved flags in the folder, as a file for ``--config``.

        Raises: ConfigError where the folder holds a run that was begun with others.
        """
        path, resolved = self.folder / RUN_FILE, json.loads(json.dumps(dict(flags)))
        before = _flags_of(path) if path.is_file() else resolved
        for name, value in resolved.items():
            changes = before.get(name, value) != value  # a flag that is younger than the run was not given
            if changes and name in CHANGEABLE:
                self.say(f"{name} is {_told(value)} from here on (it was {_told(before[name])})")
            elif changes and name not in FREE:
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

    def train(self, flags: Mapping[str, Any], task: Task) -> bool:
        """Train to the end, or until something stops it; True at the end, and then the model is in the folder itself.

        ``flags`` are resolved.
        """
        from pellucid.train.runs.checkpoint import read_model as read_whole_model
        from pellucid.train.runs.run import Run, Training

        steps, settings, rank = flags["steps"], settings_of(flags), self.processes.rank
        training = Training(
            model=task.model,
            samples=task.samples,
            optimizers=optimizers_of(flags, task.model),
            schedule=schedule_of(flags),
            loss_function=task.loss_function,
            write_model=task.write_model,
            read_model=task.read_model or read_whole_model,
            write_description=task.write_description,
            validation=task.validation,
            judge=task.judge,
            publish_model=task.publish_model,
            record=record_of(flags, self.folder, task.model, task.samples, task.validation, task.tokenizer, rank),
        )
        run = Run(self.folder, training, settings, rank=rank, num_ranks=self.processes.count)
        resumed = run.resume(self.say)
        if run.num_done > steps:
            raise ConfigError(
                "the run has gone further than that",
                where=self.folder,
                expected=f"--steps above {run.num_done}",
                received=steps,
                remedy="name another --out to begin a shorter one",
            )
        tokens = flags["batch_size"] * task.row_tokens
        self.say(
            f"{task.about}, {steps} steps of {tokens:,} tokens"
            + (f"; going on after step {run.num_done}" if resumed else "")
        )
        flops, peak = flags["batch_size"] * task.row_flops, 0.0 if self.quiet else self.matrix_peak(settings)
        with (
            self.watched(flags, run.num_done) as trackers,
            TrainingProgress(steps, run.num_done, flops, peak=peak, quiet=self.quiet) as progress,
        ):

            def sample(step: int) -> None:
                if task.write_text is not None and self.processes.count == 1:
                    text = task.write_text()
                    with open(self.folder / SAMPLES_FILE, "a", encoding="utf-8") as file:
                        file.write(json.dumps({"step": step, "text": text}, ensure_ascii=False) + "\n")
                    progress.say(f"--- step {step} ---\n{text}\n---")
                    for tracker in trackers:
                        tracker.write_text(step, text)

            def show(step: Step) -> None:
                progress.show(step)
                for tracker in trackers:
                    tracker.write(step)

            run.run(show, sample)
        if not run.is_done:
            self.say(
                f"stopped after step {run.num_done} ({run.stop_asked}); the same command goes on from there, and"
                f" until then pellucid generate -m {self.folder} runs that step"
            )
        elif self.processes.first:
            if run.ended_early:
                self.say(f"ended after step {run.num_done}: {run.num_worse} validations in a row were no better")
            checkpoint = run.publish()
            if run.best is not None:
                self.say("the best validation, {val_loss:.4f}, was that of step {step}".format(**run.best))
            elif checkpoint != run.checkpoints.at(run.num_done):
                self.say(f"the model is that of {checkpoint.name}")
        return run.is_done

    def matrix_peak(self, settings: RunSettings) -> float:
        """Operations per second that the matrix products of all processes could reach, in the dtype of training."""
        import torch

        from pellucid.train.runs.peak import matrix_peak

        return self.processes.count * matrix_peak(self.processes.device, settings.autocast or torch.float32)

    @contextmanager
    def watched(self, flags: Mapping[str, Any], num_done: int) -> Iterator[list[Tracker]]:
        """Whatever else shows the run while it goes: the page, TensorBoard's files, W&B, MLflow."""
        if not self.processes.first:
            yield []
            return
        with ExitStack() as stack:
            if flags.get("watch") is not None:
                from pellucid.explain.training.view import watch_run

                self.say(f"watch it learn: {stack.enter_context(watch_run(self.folder, flags['watch']))}")
            trackers = self._trackers(flags, num_done)
            for tracker in trackers:
                stack.callback(tracker.close)
            yield trackers

    def _trackers(self, flags: Mapping[str, Any], num_done: int) -> list[Tracker]:
        trackers: list[Tracker] = []
        if flags.get("tensorboard"):
            from pellucid.train.runs.tensorboard import EventFiles

            trackers.append(EventFiles(self.folder, num_done))
        for name in ("wandb", "mlflow"):
            if flags.get(name) is not None:
                from pellucid.train.runs.trackers import MlflowRun, WandbRun

                tracker = (WandbRun if name == "wandb" else MlflowRun)(self.folder, flags[name], flags)
                self.say(tracker.where)
                trackers.append(tracker)
        return trackers


def _is_given(name: str) -> bool:
    """Whether a flag was typed, or stands in the ``--config`` file. Without a command line all are given."""
    ctx = click.get_current_context(silent=True)
    source = None if ctx is None else ctx.get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _flags_of(path: Path) -> dict[str, Any]:
    """The flags that a run was begun with, checked by the command's own. Raises: ConfigError."""
    ctx = click.get_current_context(silent=True)
    return read_yaml(str(path)) if ctx is None else read_flags(str(path), ctx.command)
