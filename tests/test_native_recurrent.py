"""Mixers that keep a state in the native executor: what a slot may go back to, copies, interruptions."""

from __future__ import annotations

import numpy as np
import pytest
from test_native_conformance import LENGTH, RUN, decoder_of, flags_of, native, run, token_ids

from pellucid.base.errors import UnsupportedError
from pellucid.executor import StepInput
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor
from pellucid.native.kinds import states_of

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]
KEEPING = [
    model
    for model in RUN
    if "/" not in model and any(states_of(layer.mixer) for layer in decoder_of(model).config.layers)
]
EACH = pytest.mark.parametrize("model", KEEPING)


@EACH
def test_a_slot_goes_back_to_nothing_and_to_nowhere_else(model: str) -> None:
    executor, ids = native(model), token_ids()
    whole = run(executor, ids, [])
    slot = executor.allocate(LENGTH)
    executor.step([StepInput(slot, ids[:9], ())])
    assert executor.rollback == 0
    assert [length for length in range(10) if executor.reaches(slot, length)] == [0, 9]
    for refused in (lambda: executor.truncate(slot, 8), lambda: executor.fork(slot, LENGTH, 8)):
        with pytest.raises(UnsupportedError, match="a state is of all tokens"):
            refused()
    executor.truncate(slot, 9)
    np.testing.assert_array_equal(executor.step([StepInput(slot, ids[9:], (30,))]).numpy()[0], whole[-1])
    executor.truncate(slot, 0)
    np.testing.assert_array_equal(executor.step([StepInput(slot, ids, range(LENGTH))]).numpy(), whole)


@EACH
def test_a_copy_goes_on_like_its_origin_and_leaves_it_alone(model: str) -> None:
    executor, ids = native(model), token_ids()
    whole = run(executor, ids, [])
    slot = executor.allocate(LENGTH)
    executor.step([StepInput(slot, ids[:21], ())])
    first, second, empty = executor.fork(slot, LENGTH), executor.fork(slot, LENGTH), executor.fork(slot, LENGTH, 0)
    executor.step([StepInput(first, [5, 6, 7], ())])
    executor.step([StepInput(empty, [9], ())])
    for each in (second, slot):
        np.testing.assert_array_equal(executor.step([StepInput(each, ids[21:], (18,))]).numpy()[0], whole[-1])


@EACH
def test_a_step_that_is_cut_off_leaves_its_slot_empty_or_as_it_was(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of several pieces of MAX_ROWS tokens, the second of which is interrupted."""
    decoder, ids = decoder_of(model), token_ids(300)
    executor = NativeExecutor(decoder.config, dict(weights_of(decoder)), threads=2, flags=flags_of(model))
    whole = run(executor, ids, [])
    slot, other = executor.allocate(400), executor.allocate(400)
    executor.step([StepInput(slot, ids[:5], ())])
    executor.step([StepInput(other, ids[:5], ())])
    ran, calls = executor._run, []

    def run_once(*arguments: object) -> None:
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        ran(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(executor, "_run", run_once)
    with pytest.raises(KeyboardInterrupt):
        executor.step([StepInput(slot, ids[5:], ()), StepInput(other, ids[5:7], ())])
    monkeypatch.undo()
    assert executor.length(slot) == 0
    done = executor.length(other)
    assert done in (0, 5)
    for each, start in ((slot, 0), (other, done)):
        logits = executor.step([StepInput(each, ids[start:], range(300 - start))]).numpy()
        np.testing.assert_array_equal(logits, whole[start:])
