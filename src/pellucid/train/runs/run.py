"""``Run``: a training run in a folder, from its first step or from where it stopped."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch

from pellucid.checkpoint.files.distributed import MODEL, DistributedTensors, is_distributed, model_weights
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.model.decoder import Decoder
from pellucid.model.load import to_array
from pellucid.train.data.batch import Batch
from pellucid.train.measure.evaluate import mean_loss
from pellucid.train.runs.checkpoint import (
    TENSORS,
    Checkpoints,
    ReadModel,
    WriteModel,
    read_model,
    restore_distributed,
    restore_training,
    trained_parameters,
    training_tensors,
)
from pellucid.train.runs.diagnose import TrainingError, bad_gradients, first_bad_value
from pellucid.train.runs.look import undisturbed
from pellucid.train.runs.loop import LossFunction, accumulate, clip
from pellucid.train.runs.memory import keep_freed_memory
from pellucid.train.runs.optim import set_lr
from pellucid.train.runs.parallel import agree_to_stop, agreed
from pellucid.train.runs.record import METRICS, RunRecord, forget_after
from pellucid.train.runs.schedule import Schedule

MOST_SKIPPED = 10  # steps in a row: after so many the weights are what is broken, not the data
SPIKE_AFTER = 50  # steps before a running mean of the loss means anything


class Samples(Protocol):
    """Training data as a run asks for it: sample n is always the same, so that its number is the position to resume
    from.
    """

    def shuffled(self, first: int, count: int) -> Batch: ...


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long, how much at a time, how often. 0 for an ``…_every``: never."""

    num_steps: int
    batch_size: int  # rows of a step, over all processes
    micro_batch_size: int | None = None  # rows of one forward pass; None: all of the process's
    lr: float = 1e-3
    max_grad_norm: float = 1.0
    autocast: torch.dtype | None = None
    eval_every: int = 250
    save_every: int = 500
    keep: int = 2
    sample_every: int = 500
    on_trouble: Literal["stop", "skip"] = "stop"  # a loss or gradient that is not finite, or a spike
    spike: float = 3.0  # times the running mean of the loss; 0: no check
    max_seconds: float = 0.0  # save and stop after so long; 0: no limit
    keep_best: bool = False  # the step of the least validation loss stays, and is what is published
    patience: int = 0  # end after so many validations that were no better than the best; 0: never. Keeps the best, too


@dataclass(frozen=True)
class Step:
    """What one step came to."""

    step: int  # steps done, this one included
    loss: float
    lr: float
    grad_norm: float
    tokens: int  # of this step
    seconds: float
    balance: float | None = (
        None  # of a mixture of experts: its balance loss, the number of experts a token has where all are used alike
    )
    val_loss: float | None = None
    val_margin: float | None = None  # of preferences: how much more the chosen answers are worth than the rejected ones
    val_accuracy: float | None = None  # of preferences: the fraction of pairs in which they are worth more
    skipped: str | None = None  # the trouble for which its update was left out


# Figures of held-back batches, by the names that ``Step`` has for them.
Judge = Callable[[Decoder, Iterable[Batch]], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run trains, on what, and how it is kept.

    ``write_model`` saves the parameters that learn (and a tokenizer) into a folder, ``read_model`` takes them back from
    it. ``write_description`` saves what there is but the parameters, which several processes keep in parts (None: the
    whole model beside them). ``validation`` gives the held-back batches anew at each call, and ``judge`` their figures
    (None: the mean loss); ``record`` keeps what there is to look at besides the metrics. ``publish_model`` makes the
    finished model from a checkpoint (None: a copy of it).
    """

    model: Decoder
    samples: Samples
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Schedule
    loss_function: LossFunction
    write_model: WriteModel
    read_model: ReadModel = read_model
    write_description: Callable[[Path], None] | None = None
    validation: Callable[[], Iterable[Batch]] | None = None
    judge: Judge | None = None
    record: RunRecord | None = None
    publish_model: Callable[[Path, Path], None] | None = None  # (checkpoint, folder)


class Run:
    """Trains a model. One ``step()`` is all there is to see; ``run()`` repeats it, logs, saves, stops when told to."""

    def __init__(
        self, folder: Path, training: Training, settings: RunSettings, *, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self.folder, self.settings, self.rank, self.num_ranks = folder, settings, rank, num_ranks
        self.model, self.samples, self.loss_function = training.model, training.samples, training.loss_function
        self.optimizers, self.schedule = list(training.optimizers), training.schedule
        self.write_model, self.read_model = training.write_model, training.read_model
        self.write_description, self.publish_model = training.write_description, training.publish_model
        self.validation, self.judge, self.record = training.validation, training.judge, training.record
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=settings.keep, rank=rank, num_ranks=num_ranks)
        self.num_done = 0
        self.mean_loss = math.nan  # running, for spikes
        self.num_skipped = 0  # steps in a row, until now
        self.best: dict[str, float] | None = None  # {"step": …, "val_loss": …} of the best validation
        self.num_worse = 0  # validations since
        self.stop_asked: str | None = None
        if self.model.device.type == "cpu":
            keep_freed_memory()

    # --- one step ----------------------------------------------------------------------------------------------------

    def step(self) -> Step:
        """Forward, backward, clip, update. Raises: TrainingError where that fails and ``on_trouble`` is stop."""
        began, settings = time.perf_counter(), self.settings
        batch = self._batch()
        lr = settings.lr * self.schedule.factor(self.num_done)
        set_lr(self.optimizers, lr)
        micro = batch.split(settings.micro_batch_size or len(batch.token_ids))
        means = accumulate(self.model, micro, self.loss_function, autocast=settings.autocast, num_ranks=self.num_ranks)
        loss, balance = means.nll.item(), None if means.balance is None else means.balance.item()
        norm = clip(self.model, settings.max_grad_norm).item()
        trouble = self._trouble(loss, norm)
        if trouble is None:
            with self.record.update(self.num_done + 1, batch, norm) if self.record else nullcontext():
                for optimizer in self.optimizers:
                    optimizer.step()
            self.num_skipped = 0
            self.mean_loss = loss if math.isnan(self.mean_loss) else 0.95 * self.mean_loss + 0.05 * loss
        else:
            self._report(trouble, batch)
        self.model.zero_grad(set_to_none=True)
        self.num_done += 1
        tokens = batch.token_ids.numel() * self.num_ranks
        return Step(
            self.num_done, loss, lr, norm, tokens, time.perf_counter() - began, balance=balance, skipped=trouble
        )

    def _batch(self) -> Batch:
        """This process's share of the step's samples: no sample is lost, none comes twice."""
        size, first = self.settings.batch_size // self.num_ranks, self.num_done * self.settings.batch_size
        return self.samples.shuffled(first + self.rank * size, size)

    def _trouble(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if self.settings.spike and self.num_done >= SPIKE_AFTER and loss > self.settings.spike * self.mean_loss:
            return f"the loss leapt to {loss:.4g} from {self.mean_loss:.4g}"
        return None

    def _report(self, trouble: str, batch: Batch) -> None:
        """Save the batch for a look; raise, unless such steps are skipped and came one by one."""
        first = self.num_done * self.settings.batch_size
        # Another forward pass is for one process: of several, each would stop it at another place, and wait for the
        # others.
        where = first_bad_value(self.model, batch.to(self.model.device)) if self.num_ranks == 1 else None
        where = where or next((f"the gradient of {name}" for name in bad_gradients(self.model)), None)
        of_process = f"-process-{self.rank}" if self.num_ranks > 1 else ""
        saved = self.folder / f"bad-batch-step-{self.num_done + 1}{of_process}.safetensors"
        save_safetensors(saved, {"token_ids": to_array(batch.token_ids), "targets": to_array(batch.targets)})
        self.num_skipped += 1
        if self.num_skipped == MOST_SKIPPED and self.settings.on_trouble == "skip":
            raise TrainingError(
                f"{MOST_SKIPPED} steps in a row had to be left out; of the last one, {trouble}",
                where=f"step {self.num_done + 1}",
                remedy="the weights are what is broken by now: begin anew with a lower --lr or a longer --warmup-steps",
            )
        if self.settings.on_trouble == "stop":
            raise TrainingError(
                trouble + (f"; first not finite: {where}" if where else ""),
                where=f"step {self.num_done + 1}, samples {first} to {first + self.settings.batch_size - 1}",
                remedy=f"the batch is in {saved}; a lower --lr or longer --warmup-steps helps most;"
                " --on-trouble skip leaves such steps out",
            )

    # --- many steps --------------------------------------------------------------------------------------------------

    def run(
        self, on_step: Callable[[Step], None] = lambda _: None, on_sample: Callable[[int], None] = lambda _: None
    ) -> None:
        """Train to the end, or until a signal or the time limit; then save. ``on_sample`` may write some text with the
        model.
        """
        settings, began = self.settings, time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.train()
        if self.record:
            self.record.begin(self.num_done)
        with _signals(self._ask_to_stop), open(self.folder / METRICS, "a", encoding="utf-8") as metrics:
            while not self.is_done and not self.stop_asked:
                done = self.step()
                last = done.step == settings.num_steps
                if self.validation and _due(done.step, settings.eval_every, last):
                    done = Step(**{**vars(done), **self.validate()})
                    is_best = self._judge(done)
                else:
                    is_best = False
                if self.rank == 0:
                    metrics.write(
                        json.dumps({name: value for name, value in vars(done).items() if value is not None}) + "\n"
                    )
                    metrics.flush()
                    on_step(done)
                if self.record:
                    self.record.after(done.step)
                if settings.sample_every and _due(done.step, settings.sample_every, last):
                    with undisturbed(self.model):
                        on_sample(done.step)
                if settings.max_seconds and time.monotonic() - began > settings.max_seconds:
                    self.stop_asked = "the time is up"
                if self.num_ranks > 1:
                    self.stop_asked = agree_to_stop(self.stop_asked)
                if _due(done.step, settings.save_every, last) or is_best or self.is_done or self.stop_asked:
                    self.save()

    def validate(self) -> Mapping[str, float]:
        """Figures of the held-back batches."""
        assert self.validation is not None
        with undisturbed(self.model):
            if self.judge is not None:
                return self.judge(self.model, self.validation())
            return {"val_loss": mean_loss(self.model, self.validation(), autocast=self.settings.autocast)}

    def _judge(self, done: Step) -> bool:
        """Whether a validation is the best so far, where the best is kept; its checkpoint then stays."""
        settings = self.settings
        if done.val_loss is None or not (settings.keep_best or settings.patience):
            return False
        val_loss = agreed(done.val_loss) if self.num_ranks > 1 else done.val_loss
        if self.best is not None and not val_loss < self.best["val_loss"]:
            self.num_worse += 1
            return False
        self.best, self.num_worse = {"step": done.step, "val_loss": val_loss}, 0
        self.checkpoints.best = done.step
        return True

    @property
    def ended_early(self) -> bool:
        """Whether validations have been no better for as long as the run was to bear with."""
        return bool(self.settings.patience) and self.num_worse >= self.settings.patience

    @property
    def is_done(self) -> bool:
        return self.num_done >= self.settings.num_steps or self.ended_early

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.stop_asked == name == "SIGINT":  # a person who asks twice means at once
            raise KeyboardInterrupt
        self.stop_asked = name

    # --- stopping and going on ---------------------------------------------------------------------------------------

    def save(self) -> None:
        """A checkpoint of this moment."""
        state = {
            "mean_loss": None if math.isnan(self.mean_loss) else self.mean_loss,
            "batch_size": self.settings.batch_size,
            **({} if self.best is None else {"best": self.best, "num_worse": self.num_worse}),
        }
        with self.checkpoints.writing(self.num_done, state) as folder:
            if self.num_ranks > 1:
                self._save_parts(folder)
            else:
                self.write_model(
                    folder, {name: to_array(parameter) for name, parameter in trained_parameters(self.model).items()}
                )
                tensors = training_tensors(self.model, self.optimizers)
                save_safetensors(folder / TENSORS, {name: to_array(tensor) for name, tensor in tensors.items()})

    def _save_parts(self, folder: Path) -> None:
        """Each process writes what it holds, and the first one what is for all."""
        from pellucid.train.runs.distributed import save_distributed

        weights = {MODEL + name: parameter.detach() for name, parameter in trained_parameters(self.model).items()}
        save_distributed(folder, weights | training_tensors(self.model, self.optimizers, f"{self.rank}."))
        if self.rank == 0:
            if self.write_description is not None:
                self.write_description(folder)
            else:
                self.write_model(folder, model_weights(DistributedTensors(folder)))

    def resume(self, warn: Callable[[str], None] = lambda _: None) -> bool:
        """Go back to the latest sound checkpoint, if there is one. Bit for bit, on a CPU, with the same threads,
        processes and versions.
        """
        self.checkpoints.clean()
        path = self.checkpoints.latest(warn)
        if path is None:
            if self.rank == 0:
                forget_after(self.folder, 0)
            return False
        if is_distributed(path):
            state = restore_distributed(path, self.model, self.optimizers, self.rank, self.num_ranks)
        else:
            self.read_model(path, self.model)
            state = restore_training(path, self.model, self.optimizers, self.rank)
        self.num_done = state["step"]
        self.mean_loss = math.nan if state["mean_loss"] is None else state["mean_loss"]
        if "best" in state and self.checkpoints.at(int(state["best"]["step"])).is_dir():
            self.best, self.num_worse = state["best"], state["num_worse"]
            self.checkpoints.best = int(state["best"]["step"])
        if self.rank == 0:
            forget_after(self.folder, self.num_done)
        return True

    def publish(self) -> Path:
        """The latest checkpoint's model (the best one's, where it was kept) in the run's own folder, put together where
        it lies in parts, without what only training needs. Returns the checkpoint.
        """
        checkpoint = self.checkpoints.steps()[-1]
        if self.best is not None and (self.settings.keep_best or self.settings.patience):
            checkpoint = self.checkpoints.at(int(self.best["step"]))
        if self.publish_model is not None:
            self.publish_model(checkpoint, self.folder)
        elif is_distributed(checkpoint):
            self.write_model(self.folder, model_weights(DistributedTensors(checkpoint)))
        else:
            for file in checkpoint.iterdir():
                if not file.name.startswith("training."):
                    shutil.copy2(file, self.folder / file.name)
        return checkpoint


def _due(step: int, every: int, last: bool) -> bool:
    return last or bool(every and step % every == 0)


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Any:
    """Ctrl-C and a scheduler's SIGTERM ask the run to stop; before and after they mean what they did."""
    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals do not come
        before = {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
