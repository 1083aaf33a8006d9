"""What the frozen reference makes of every pair, computed once before training: no second model is held, and no step
asks one.

FOLDER/reference.safetensors    log_probs (num_pairs, 2) float32: log π_ref of each chosen and each rejected answer, NaN
where none was asked
                                for; in its metadata what they come from: the model, the pairs, the arithmetic
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pellucid.base.array import Array
from pellucid.base.files import file_sha256
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.model.decoder import Decoder
from pellucid.train.data.example_batches import ExampleBatches
from pellucid.train.data.example_store import MANIFEST, Examples
from pellucid.train.lora import without_adapter
from pellucid.train.objectives.preference import PreferenceBatch, pair_log_probs

FILE, TABLE = "reference.safetensors", "log_probs"


def reference_log_probs(
    model: Decoder,
    examples: Examples,
    pairs: Collection[int],
    *,
    identity: str,
    batch_size: int,
    autocast: torch.dtype | None = None,
    rank: int = 0,
    num_ranks: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> np.ndarray:
    """The table of all pairs with rows ``pairs`` filled; memory-mapped where nothing had to be computed.

    ``model`` is the reference: one that has learned nothing yet, its LoRA (if any) left out; ``identity`` tells it from
    others. Of several processes, each holds a whole model and computes a share, and the first one writes. ``autocast``:
    as in training, so that both round alike.
    """
    path = examples.folder / FILE
    made_of = {"model": identity, "examples_sha256": file_sha256(examples.folder / MANIFEST), "autocast": str(autocast)}
    table = _kept(path, made_of, len(examples) // 2)
    missing = [pair for pair in pairs if np.isnan(table[pair]).any()]
    if not missing:
        return table
    missing.sort(
        key=lambda pair: (examples.lengths[2 * pair : 2 * pair + 2].max(), pair)
    )  # rows of like length need little padding
    found, model = torch.zeros(len(missing), 2, device=model.device), model.eval()
    for first in range(rank * batch_size, len(missing), num_ranks * batch_size):
        some = missing[first : first + batch_size]
        found[first : first + len(some)] = _log_probs(model, examples, some, autocast)
        progress(
            f"what the reference makes of {min(first + num_ranks * batch_size, len(missing)):,}"
            f" of {len(missing):,} pairs"
        )
    if num_ranks > 1:
        torch.distributed.all_reduce(found)
    table = np.array(table)
    table[missing] = found.cpu().numpy()
    if rank == 0:
        save_safetensors(path, {TABLE: Array("float32", table.shape, table)}, made_of)
    return table


@torch.no_grad()
def _log_probs(model: Decoder, examples: Examples, pairs: list[int], autocast: torch.dtype | None) -> Tensor:
    samples = [[[2 * pair], [2 * pair + 1]] for pair in pairs]
    (batch,) = ExampleBatches(examples, samples, pad_id=0).spread(len(pairs), len(pairs))
    assert isinstance(batch, PreferenceBatch)
    with without_adapter(model), torch.autocast(model.device.type, autocast) if autocast else nullcontext():
        return pair_log_probs(model, batch.to(model.device)).float()


def _kept(path: Path, made_of: Mapping[str, str], num_pairs: int) -> np.ndarray:
    """The table on disk, or an empty one where that was made of something else."""
    if path.is_file():
        file = SafetensorsFile(path)
        if file.metadata == made_of:
            return file[TABLE].data
    return np.full((num_pairs, 2), np.nan, np.float32)
