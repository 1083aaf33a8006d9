"""The reference's log-probabilities, computed once: the numbers that a second model would give, kept for as long as
they hold.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import tiny
from test_train_preference import model_with_lora

from pellucid.train.data.example_batches import ExampleBatches, rows_of
from pellucid.train.data.example_store import INDEX, LEARNED, MANIFEST, TOKENS, Counts, Examples
from pellucid.train.objectives import reference
from pellucid.train.objectives.preference import PreferenceBatch, pair_log_probs, preference_loss
from pellucid.train.objectives.reference import reference_log_probs

NUM_PAIRS = 5


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    """Pairs of texts of 6 to 15 tokens, the second half of each learned."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(6, 16, 2 * NUM_PAIRS)
    texts = [
        np.where(np.arange(n) < n // 2, 0, LEARNED).astype("<u4") | draw.integers(0, 96, n).astype("<u4")
        for n in lengths
    ]
    np.concatenate(texts).tofile(tmp_path / TOKENS)
    np.save(tmp_path / INDEX, np.stack([np.cumsum(lengths), np.repeat(np.arange(NUM_PAIRS), 2)], 1))
    (tmp_path / MANIFEST).write_text(json.dumps({"made": "by hand"}))
    return Examples(tmp_path, True, Counts())


def table_of(examples: Examples, pairs: list[int] | None = None, **settings: Any) -> np.ndarray:
    pairs = list(range(NUM_PAIRS)) if pairs is None else pairs
    return reference_log_probs(tiny("llama"), examples, pairs, **{"identity": "it", "batch_size": 2, **settings})


def batch_of(examples: Examples, table: np.ndarray | None) -> PreferenceBatch:
    samples = ExampleBatches(examples, rows_of(range(2 * NUM_PAIRS), examples), pad_id=0, reference=table)
    batch = samples.shuffled(0, NUM_PAIRS)
    assert isinstance(batch, PreferenceBatch)
    return batch


def test_batches_bring_along_what_a_second_model_would_say(examples: Examples) -> None:
    batch = batch_of(examples, table_of(examples))
    assert batch.reference is not None
    with torch.no_grad():
        expected = pair_log_probs(tiny("llama"), batch)
    torch.testing.assert_close(batch.reference, expected, rtol=1e-5, atol=1e-5)


def test_all_weights_have_the_loss_and_gradients_that_a_second_model_gives(examples: Examples) -> None:
    model = copy.deepcopy(tiny("llama")).requires_grad_()
    with torch.no_grad():
        model.get_parameter("layers.0.mlp.up_proj.weight").mul_(1.5)  # it has learned something
    batch = batch_of(examples, table_of(examples))
    results = []
    for its, second in ((batch, None), (replace(batch, reference=None), tiny("llama"))):
        loss = preference_loss(model, its, reference=second)
        loss.total.backward()
        results.append([loss.total.detach(), loss.margin, *(parameter.grad for parameter in model.parameters())])
        model.zero_grad()
    assert results[0][1].item() != pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_lora_has_the_loss_that_leaving_it_out_gives(examples: Examples) -> None:
    batch, model = batch_of(examples, table_of(examples)), model_with_lora()
    beforehand, switched = (preference_loss(model, its) for its in (batch, replace(batch, reference=None)))
    torch.testing.assert_close(beforehand.total, switched.total)
    torch.testing.assert_close(beforehand.margin, switched.margin)


def test_a_model_with_lora_is_taken_without_it(examples: Examples) -> None:
    table = reference_log_probs(model_with_lora(), examples, range(NUM_PAIRS), identity="it", batch_size=NUM_PAIRS)
    np.testing.assert_allclose(table, table_of(examples, identity="another"), rtol=1e-5)


def test_only_what_is_missing_is_computed(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    compute = reference._log_probs
    monkeypatch.setattr(
        reference,
        "_log_probs",
        lambda model, its, pairs, autocast: asked.append(sorted(pairs)) or compute(model, its, pairs, autocast),
    )
    first = table_of(examples, [3, 1], batch_size=8)
    assert np.isnan(first).any(1).tolist() == [True, False, True, False, True]
    np.testing.assert_array_equal(table_of(examples, [1, 3]), first)
    assert asked == [[1, 3]]
    whole = table_of(examples, batch_size=8)
    assert asked == [[1, 3], [0, 2, 4]]
    np.testing.assert_array_equal(whole[[1, 3]], first[[1, 3]])
    assert isinstance(table_of(examples).base, memoryview | np.ndarray), "a view of the file"
    assert len(asked) == 2


@pytest.mark.parametrize("change", ["model", "dtype", "pairs"])
def test_what_was_made_of_something_else_is_made_anew(examples: Examples, change: str) -> None:
    table_of(examples, [0])
    if change == "pairs":
        (examples.folder / MANIFEST).write_text(json.dumps({"made": "anew"}))
    settings: dict[str, Any] = {"model": {"identity": "another"}, "dtype": {"autocast": torch.bfloat16}}.get(change, {})
    assert np.isnan(table_of(examples, [1], **settings)[0]).all()
