"""Memory and time of a fine-tuning step: all weights, LoRA over float32, QLoRA over blocks of few bits; each in a
process of its own.

    python bench/qlora.py [-m MODEL] [--tokens 512] [--rows 1]

``peak`` is what the process took at most (resident, files it maps included), ``model`` what is held of weights, blocks
and updates.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

METHODS = {"full": None, "lora": None, "qlora q8": "q8", "qlora q4": "q4"}


def measure(model_name: str, method: str, rows: int, tokens: int) -> dict[str, float]:
    """One process: load, three steps, and what they took."""
    import torch

    from pellucid.auto import open_model
    from pellucid.model.load import load_decoder
    from pellucid.train.data.batch import Batch
    from pellucid.train.lora import LoraSettings, attach_lora
    from pellucid.train.objectives.loss import language_loss
    from pellucid.train.runs.loop import accumulate, checkpoint_activations
    from pellucid.train.runs.optim import OptimSettings, make_optimizers

    checkpoint = open_model(model_name)
    model = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu", METHODS[method])
    if method == "full":
        model.requires_grad_()
    else:
        attach_lora(model, LoraSettings(rank=16, alpha=32), torch.Generator().manual_seed(0))
    checkpoint_activations(model)
    (optimizer,) = make_optimizers(model.train(), OptimSettings(lr=1e-4))
    ids = torch.randint(0, model.config.vocab_size, (rows, tokens + 1), generator=torch.Generator().manual_seed(0))
    seconds, loss = [], 0.0
    for _ in range(3):
        began = time.perf_counter()
        loss = accumulate(model, [Batch.of(ids[:, :-1], ids[:, 1:])], language_loss).nll.item()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    held = [*model.parameters(), *model.buffers()]
    return {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "model_mb": sum(tensor.nbytes for tensor in held) / 2**20,
        "step_s": min(seconds),
        "loss": loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--method", choices=METHODS, help="measure one, in this process")
    asked = parser.parse_args()
    if asked.method:
        print(json.dumps(measure(asked.model, asked.method, asked.rows, asked.tokens)))
        return
    print(f"{asked.model}: steps of {asked.rows} × {asked.tokens} tokens, activations checkpointed")
    for method in METHODS:
        command = [
            sys.executable,
            __file__,
            "-m",
            asked.model,
            "--tokens",
            str(asked.tokens),
            "--rows",
            str(asked.rows),
            "--method",
            method,
        ]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        memory = f"peak {found['peak_mb']:6.0f} MB   model {found['model_mb']:5.0f} MB"
        print(f"{method:9} {memory}   {found['step_s']:5.2f} s a step   loss of the third {found['loss']:.4f}")


if __name__ == "__main__":
    main()
