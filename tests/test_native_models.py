"""The native executor on real models: the same answers as torch on the same weights, and a second start that maps and
runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid.checkpoint.open import Checkpoint, open_checkpoint
from pellucid.executor import Executor, StepInput
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder
from pellucid.native.build import compiler
from pellucid.native.cache import folder
from pellucid.native.executor import NativeExecutor

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]


def torch_executor(checkpoint: Checkpoint) -> TorchExecutor:
    return TorchExecutor(load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu"))


def greedy(executor: Executor, prompt: list[int], count: int) -> list[int]:
    slot, ids = executor.allocate(len(prompt) + count), list(prompt)
    while len(ids) < len(prompt) + count:
        new = ids[executor.length(slot) :]
        ids.append(int(executor.step([StepInput(slot, new, (len(new) - 1,))]).argmax()[0]))
    return ids


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def mean_kl(exact: np.ndarray, got: np.ndarray) -> float:
    """Mean over positions of Σ p log(p / q), nats."""
    p, q = log_softmax(exact), log_softmax(got)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def test_stories260k_tells_the_same_story_as_torch(stories: Path) -> None:
    checkpoint = open_checkpoint(stories / "stories260K.bin")
    native = NativeExecutor(checkpoint.config, checkpoint.weights)
    assert greedy(native, [1], 200) == greedy(torch_executor(checkpoint), [1], 200)


# "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]


def test_smollm2_in_its_own_four_bit_blocks_says_what_torch_says(smollm2: Path) -> None:
    """Int8 activations shift the distribution by some thousandths of a nat; the greedy tokens of this prompt stay."""
    checkpoint = open_checkpoint(smollm2)
    native, torch = NativeExecutor(checkpoint.config, checkpoint.weights), torch_executor(checkpoint)
    ids = greedy(torch, PROMPT, 12)
    assert greedy(native, PROMPT, 12) == ids
    exact, got = (
        its.step([StepInput(its.allocate(len(ids)), ids, range(len(ids)))]).numpy() for its in (torch, native)
    )
    assert mean_kl(exact, got) < 0.01


def test_a_second_start_maps_the_packed_parameters_and_reads_no_weights(stories: Path) -> None:
    checkpoint = open_checkpoint(stories / "stories260K.bin")
    first = NativeExecutor(checkpoint.config, checkpoint.weights, source_id="stories, as of today")
    second = NativeExecutor(checkpoint.config, {}, source_id="stories, as of today")
    assert greedy(second, [1], 20) == greedy(first, [1], 20)
    with pytest.raises(KeyError):
        NativeExecutor(checkpoint.config, {}, source_id="stories, as of tomorrow")
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder("parameters"), *folder("parameters").iterdir()])


@pytest.mark.parametrize(("quantize", "bound"), [("q8", 0.01), ("q4", 0.6)])
def test_quantized_on_the_way_in_it_stays_near_the_original(stories: Path, quantize: str, bound: float) -> None:
    """A model of 260K parameters suffers more than a large one: mean KL, nats, over its own story."""
    checkpoint = open_checkpoint(stories / "stories260K.bin")
    torch = torch_executor(checkpoint)
    ids = greedy(torch, [1], 120)
    native = NativeExecutor(checkpoint.config, checkpoint.weights, quantize=quantize)
    exact, got = (
        its.step([StepInput(its.allocate(len(ids)), ids, range(len(ids)))]).numpy() for its in (torch, native)
    )
    assert 0 < mean_kl(exact, got) < bound
