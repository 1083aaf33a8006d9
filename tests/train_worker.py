"""A small training run in processes of its own, for tests that kill them: python train_worker.py FOLDER [--compile]
[--die-in-save STEP].

By torchrun, each process trains its part; the last one dies when it has written half of its part of a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import Batch
from pellucid.train.dropout import Dropout
from pellucid.train.objectives.loss import language_loss
from pellucid.train.runs import checkpoint, distributed
from pellucid.train.runs.compile import compiled_forward
from pellucid.train.runs.optim import OptimSettings, make_optimizers
from pellucid.train.runs.parallel import Processes
from pellucid.train.runs.run import Run, RunSettings, Training
from pellucid.train.runs.schedule import Schedule

STEPS = 24


class Noise:
    """Samples that are a pure function of their number, as a run asks for them."""

    def shuffled(self, first: int, count: int) -> Batch:
        ids = torch.stack(
            [torch.randint(96, (17,), generator=torch.Generator().manual_seed(first + row)) for row in range(count)]
        )
        return Batch.of(ids[:, :-1], ids[:, 1:])


def small_run(folder: Path, optimizer: str = "muon", processes: Processes | None = None, **changes: object) -> Run:
    config, seeded = FAMILIES["llama"].config(FAMILIES["llama"].TINY), torch.Generator().manual_seed(0)
    model = processes.fresh(config, seeded) if processes else Decoder(config).initialize(seeded)
    torch.manual_seed(processes.rank if processes else 0)
    settings = {
        "num_steps": STEPS,
        "batch_size": 4,
        "micro_batch_size": 2,
        "lr": 3e-3,
        "save_every": 4,
        "eval_every": 6,
        "spike": 0.0,
        **changes,
    }
    training = Training(
        model=model,
        samples=Noise(),
        optimizers=make_optimizers(model, OptimSettings(optimizer=optimizer, lr=3e-3)),  # type: ignore[arg-type]
        schedule=Schedule(num_steps=STEPS, warmup_steps=4),
        loss_function=partial(language_loss, recorder=Dropout(0.1)),
        write_model=partial(checkpoint.write_model, config=model.config),
        write_description=partial(checkpoint.write_description, config=model.config),
        validation=lambda: [Noise().shuffled(10_000, 4)],
    )
    rank, num_ranks = (processes.rank, processes.count) if processes else (0, 1)
    return Run(folder, training, RunSettings(**settings), rank=rank, num_ranks=num_ranks)  # type: ignore[arg-type]


def main() -> None:
    torch.set_num_threads(1)
    with Processes(torch.device("cpu")) as processes:
        run = small_run(Path(sys.argv[1]), "muon" if processes.count == 1 else "adamw", processes)
        if "--compile" in sys.argv:
            run.loss_function = partial(run.loss_function, forward=compiled_forward(run.model))  # type: ignore[call-arg]
        if "--die-in-save" in sys.argv and processes.rank == processes.count - 1:
            die_in_save(run, f"{sys.argv[-1]:0>8}")
        run.resume(lambda text: print(text, flush=True))
        run.run(lambda step: print(step.step, flush=True))


def die_in_save(run: Run, step: str) -> None:
    """A kill -9 when the model is written, but its optimizer's state is not; of several processes, in the middle of the
    last one's part.
    """
    write, write_part = run.write_model, distributed.save_safetensors

    def die(folder: Path, weights: dict) -> None:
        write(folder, weights)
        if step in folder.name:
            os.kill(os.getpid(), signal.SIGKILL)

    def die_in_part(path: Path, *given: object, **named: object) -> None:
        write_part(path, *given, **named)  # type: ignore[arg-type]
        if step in str(path):
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    run.write_model, distributed.save_safetensors = die, die_in_part  # type: ignore[assignment]


if __name__ == "__main__":
    main()
