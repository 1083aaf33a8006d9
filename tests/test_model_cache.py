"""The KV cache: windows keep what a query may see, forks are independent, truncation is exact, overflow is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tiny

from pellucid.base.errors import ContextLengthError, UnsupportedError
from pellucid.config import AttentionConfig
from pellucid.executor import StepInput
from pellucid.model.cache import ROLLBACK, Cache, WindowCache
from pellucid.model.executor import TorchExecutor


@given(window=st.integers(1, 6), chunks=st.lists(st.integers(1, 15), min_size=1, max_size=12))
def test_a_window_cache_returns_every_key_that_a_query_may_see_in_order(window: int, chunks: list[int]) -> None:
    config = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=1, window=window)
    cache = WindowCache(config, 1, torch.float32, torch.device("cpu"))
    seen = 0
    for chunk in chunks:
        new = torch.arange(seen, seen + chunk, dtype=torch.float32).view(1, 1, chunk, 1)
        k, v, first = cache.append(new, -new)
        oldest_needed = max(seen - (window - 1), 0)
        seen += chunk
        assert first <= oldest_needed
        assert k.flatten().tolist() == list(range(first, seen))
        assert v.flatten().tolist() == [-float(i) for i in range(first, seen)]
        assert k.shape[2] <= 2 * window + chunk  # what is kept is bounded, however long the sequence


@given(
    window=st.integers(1, 6),
    chunks=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    back=st.integers(0, ROLLBACK),
)
def test_a_window_cache_takes_back_as_many_tokens_as_may_be_guessed(window: int, chunks: list[int], back: int) -> None:
    config = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=1, window=window)
    cache = WindowCache(config, 1, torch.float32, torch.device("cpu"))
    seen = 0
    for chunk in chunks:
        new = torch.arange(seen, seen + chunk, dtype=torch.float32).view(1, 1, chunk, 1)
        cache.append(new, new)
        seen += chunk
    left = max(seen - back, 0)
    cache.truncate(left)
    k, _, first = cache.append(torch.full((1, 1, 1, 1), float(left)), torch.zeros(1, 1, 1, 1))
    assert k.flatten().tolist() == list(range(max(left - window + 1, 0), left + 1))
    assert first == max(left - window + 1, 0)


def test_a_step_that_is_interrupted_leaves_its_slots_as_they_were_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, left in (("llama", 20), ("qwen2", 20)):  # the second with a window, which holds enough to go back
        executor = TorchExecutor(tiny(family))
        slot, other = executor.allocate(40), executor.allocate(40)
        executor.step([StepInput(slot, list(range(20)), ()), StepInput(other, list(range(20)), ())])

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(executor.decoder.layers[-1], "forward", interrupt)
            with pytest.raises(KeyboardInterrupt):
                executor.step([StepInput(slot, [1, 2, 3], ())])
        assert executor.length(slot) == left
        if rest := list(range(left, 20)):
            executor.step([StepInput(slot, rest, ())])
        again = executor.step([StepInput(slot, [5], (0,)), StepInput(other, [5], (0,))]).numpy()
        assert (again[0] == again[1]).all()


def test_a_step_that_is_interrupted_beyond_what_a_window_can_take_back_leaves_the_slot_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = TorchExecutor(tiny("qwen2"))
    slot = executor.allocate(200)
    executor.step([StepInput(slot, list(range(60)), ())])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executor.decoder.layers[-1], "think", interrupt)  # after the windowed layer's attention
        with pytest.raises(KeyboardInterrupt):
            executor.step([StepInput(slot, [1] * 60, ())])
    assert executor.length(slot) == 0


def test_a_window_interrupted_while_it_moves_reaches_nothing_until_it_is_cleared() -> None:
    config = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=1, window=4)
    cache = WindowCache(config, 1, torch.float32, torch.device("cpu"))
    new = torch.zeros(1, 1, cache.k.shape[2], 1)
    cache.append(new, new)

    class Interrupted:
        def __getitem__(self, _: object) -> None:
            raise KeyboardInterrupt

    whole, cache.v = cache.v, Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        cache.append(new[:, :, :1], new[:, :, :1])
    cache.v = whole
    assert not any(cache.reaches(length) for length in range(cache.length + 1))
    cache.clear()
    assert cache.reaches(0)


def test_a_truncation_that_one_layer_refuses_changes_no_layer() -> None:
    executor = TorchExecutor(tiny("qwen2"))
    slot = executor.allocate(60)
    executor.step([StepInput(slot, list(range(1, 50)), ())])
    assert not executor.reaches(slot, 10)
    with pytest.raises(UnsupportedError, match=r"layers\.1"):
        executor.truncate(slot, 10)
    assert [state.length for state in executor._caches[slot].layers] == [49, 49]
    executor.truncate(slot, 0)
    assert [state.length for state in executor._caches[slot].layers] == [0, 0]


def test_a_window_cache_refuses_to_go_back_beyond_what_it_kept() -> None:
    executor = TorchExecutor(tiny("qwen2"))  # its second layer has a window of 8
    slot = executor.allocate(60)
    executor.step([StepInput(slot, list(range(1, 50)), ())])
    executor.step([StepInput(slot, [1, 2, 3], ())])
    executor.truncate(slot, 50)
    with pytest.raises(UnsupportedError, match="dropped"):
        executor.truncate(slot, 10)


@settings(max_examples=20, deadline=None)
@given(family=st.sampled_from(["llama", "qwen2", "gpt2"]), cut=st.integers(1, 19))
def test_truncate_then_continue_equals_never_having_gone_on(family: str, cut: int) -> None:
    executor = TorchExecutor(tiny(family))
    ids = list(range(3, 23))
    slot, other = executor.allocate(32), executor.allocate(32)
    executor.step([StepInput(slot, ids, ())])
    try:
        executor.truncate(slot, cut)
    except UnsupportedError:
        return
    executor.step([StepInput(other, ids[:cut], ())])
    again = executor.step([StepInput(slot, [90, 91], (0, 1)), StepInput(other, [90, 91], (0, 1))]).numpy()
    torch.testing.assert_close(torch.tensor(again[:2]), torch.tensor(again[2:]), rtol=0, atol=1e-5)


def test_a_fork_continues_on_its_own() -> None:
    executor = TorchExecutor(tiny("qwen2"))
    slot = executor.allocate(30)
    executor.step([StepInput(slot, list(range(20)), ())])
    fork = executor.fork(slot, 40)
    first = executor.step([StepInput(fork, [5], (0,))]).numpy()
    executor.step([StepInput(fork, [6, 7], ())])
    assert (executor.length(slot), executor.length(fork)) == (20, 23)
    assert (executor.step([StepInput(slot, [5], (0,))]).numpy() == first).all()


def test_a_full_slot_is_refused_before_anything_changes() -> None:
    executor = TorchExecutor(tiny("llama"))
    slot = executor.allocate(4)
    executor.step([StepInput(slot, [1, 2, 3], ())])
    with pytest.raises(ContextLengthError, match=r"at most 4 tokens, received 5"):
        executor.step([StepInput(slot, [4, 5], (1,))])
    assert executor.length(slot) == 3


def test_forking_into_too_small_a_slot_is_refused() -> None:
    cache = Cache(tiny("llama").config, 1, 8, torch.float32)
    cache.length = 5
    with pytest.raises(ContextLengthError):
        cache.fork(4)
