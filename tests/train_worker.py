"""A small training run in a process of its own, for tests that kill it: python train_worker.py FOLDER [--compile] [--die-in-save STEP]."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.train import checkpoint
from pellucid.train.batch import Batch
from pellucid.train.compile import compiled_forward
from pellucid.train.dropout import Dropout
from pellucid.train.loss import language_loss
from pellucid.train.optim import OptimSettings, make_optimizers
from pellucid.train.run import Run, RunSettings
from pellucid.train.schedule import Schedule

STEPS = 24


class Noise:
    """Samples that are a pure function of their number, as a run asks for them."""

    def shuffled(self, first: int, count: int) -> Batch:
        ids = torch.stack([torch.randint(96, (17,), generator=torch.Generator().manual_seed(first + row)) for row in range(count)])
        return Batch.of(ids[:, :-1], ids[:, 1:])


def small_run(folder: Path, optimizer: str = "muon", **changes: object) -> Run:
    torch.manual_seed(0)
    model = Decoder(FAMILIES["llama"].config(FAMILIES["llama"].TINY)).initialize(torch.Generator().manual_seed(0))
    its = {"num_steps": STEPS, "batch_size": 4, "micro_batch_size": 2, "lr": 3e-3, "save_every": 4, "eval_every": 6, "spike": 0.0, **changes}
    return Run(
        folder,
        model,
        Noise(),
        make_optimizers(model, OptimSettings(optimizer=optimizer, lr=3e-3)),  # type: ignore[arg-type]
        Schedule(num_steps=STEPS, warmup_steps=4),
        RunSettings(**its),  # type: ignore[arg-type]
        partial(language_loss, recorder=Dropout(0.1)),
        partial(checkpoint.write_model, config=model.config),
        validation=lambda: [Noise().shuffled(10_000, 4)],
    )


def main() -> None:
    torch.set_num_threads(1)
    run = small_run(Path(sys.argv[1]))
    if "--compile" in sys.argv:
        run.loss_function = partial(run.loss_function, forward=compiled_forward(run.model))  # type: ignore[call-arg]
    if "--die-in-save" in sys.argv:
        write = run.write_model

        def die(folder: Path, weights: dict) -> None:
            write(folder, weights)
            if f"{sys.argv[-1]:0>8}" in folder.name:
                os.kill(os.getpid(), signal.SIGKILL)

        run.write_model = die  # type: ignore[assignment]
    run.resume()
    run.run(lambda step: print(step.step, flush=True))


if __name__ == "__main__":
    main()
