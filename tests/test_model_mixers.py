"""A mixer of another kind: it joins by its description, its module and its state, and what it cannot do is asked first.

The kind is the tests' own: a recurrence h_t = a ⊙ h_{t−1} + x_t W, as linear attention and state-space models have. Its
state is a sum over all tokens, so it can go back to none of the lengths before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tiny
from torch import Tensor, nn

from pellucid.base.errors import ConfigError, NotFiniteError, UnsupportedError
from pellucid.claims import ANY
from pellucid.config import AttentionConfig, ModelConfig
from pellucid.executor import StepInput
from pellucid.generate import DraftModel, Engine, PromptLookup, Request
from pellucid.model import cache as caches
from pellucid.model import mixers
from pellucid.model.claims import TORCH
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.model.linear import Linear
from pellucid.sampling import GREEDY


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(AttentionConfig):
    """h_t = decay · h_{t−1} + x_t W; the output is h_t. (It inherits because ``config.Mixer`` names one kind today.)"""

    name: ClassVar[str] = "recurrence"
    num_heads: int = 1
    num_kv_heads: int = 1
    head_dim: int = 1
    decay: float = 0.5

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        return {f"{prefix}in_proj.weight": (d_model, d_model)}


class Recurrence(nn.Module):
    def __init__(self, d_model: int, config: RecurrentConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.in_proj = Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return ctx.by_request(self.mix, self.in_proj(ctx.tap(self, "attn_in", x), ctx))

    def mix(self, ctx: Context, u: Tensor) -> Tensor:
        assert ctx.attend is None
        assert ctx.key_mask is None
        state = RecurrentState(u.shape[0], u.dtype, u.device) if ctx.cache is None else ctx.cache.layers[self.layer]
        assert isinstance(state, RecurrentState)
        return state.append(u, self.config.decay)


class RecurrentState:
    rollback = 0
    reason = "a recurrent state is a sum over all tokens and holds none of them"

    def __init__(self, batch: int, dtype: torch.dtype, device: torch.device) -> None:
        self.batch, self.dtype, self.device = batch, dtype, device
        self.clear()

    def append(self, u: Tensor, decay: float) -> Tensor:
        rows = []
        for row in u.unbind(1):
            self.h = decay * self.h + row
            rows.append(self.h)
        self.length += u.shape[1]
        return torch.stack(rows, 1)

    def reaches(self, length: int) -> bool:
        return length == self.length

    def truncate(self, length: int) -> None:
        assert length == self.length

    def clear(self) -> None:
        self.h, self.length = torch.zeros(self.batch, 1, dtype=self.dtype, device=self.device), 0

    def copy_from(self, other: RecurrentState, length: int) -> None:
        assert length == other.length
        self.h, self.length = other.h, other.length


@pytest.fixture(scope="module", autouse=True)
def recurrent() -> Iterator[None]:
    """The kind, registered as any other is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mixers.MIXERS, RecurrentConfig, Recurrence)
        patch.setitem(TORCH.table, RecurrentConfig, {"decay": ANY})
        patch.setitem(
            caches.STATES,
            RecurrentConfig,
            lambda mixer, batch, capacity, dtype, device: RecurrentState(batch, dtype, device),
        )
        yield


def hybrid(family: str = "llama", seed: int = 0) -> Decoder:
    """Attention in one layer, the recurrence in another."""
    config: ModelConfig = tiny(family).config
    first, *others = config.layers
    decoder = Decoder(replace(config, layers=(first, replace(others[0], mixer=RecurrentConfig()))))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.2, generator=generator)
    return decoder.requires_grad_(False).eval()


def ask(prompt: Sequence[int], max_new_tokens: int = 8, **options: Any) -> Request:
    return Request(prompt_ids=prompt, max_new_tokens=max_new_tokens, stop_token_ids=(), sampling=GREEDY, **options)


def greedy(decoder: Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """By whole forwards, without a state."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ctx = Context(torch.arange(len(ids))[None], rows_invariant=True)
            ids.append(int(decoder(torch.tensor([ids]), ctx)[0, -1].argmax()))
    return ids[len(prompt) :]


def test_its_weights_have_its_own_name_and_its_layer_is_the_recurrence_by_worked_example() -> None:
    decoder = hybrid()
    assert "layers.1.recurrence.in_proj.weight" in dict(decoder.named_parameters())
    assert "layers.0.attention.q_proj.weight" in dict(decoder.named_parameters())
    module = Recurrence(1, RecurrentConfig(decay=0.5), 0)
    module.in_proj.weight.data.fill_(1.0)
    y = module(torch.tensor([[[1.0], [2.0], [4.0]]]), Context(torch.arange(3)[None]))
    assert y.flatten().tolist() == [1.0, 2.5, 5.25]


def test_requests_in_a_ragged_batch_are_what_they_are_alone_whatever_mixes_them() -> None:
    executor = TorchExecutor(hybrid())
    texts = [[5, 9, 2, 7, 3], [11, 4], [8, 1, 6, 30, 31, 32, 33]]
    alone = [executor.step([StepInput(executor.allocate(8), ids, (len(ids) - 1,))]).numpy()[0] for ids in texts]
    slots = [executor.allocate(8) for _ in texts]
    executor.step([StepInput(slot, ids[:-1], ()) for slot, ids in zip(slots, texts, strict=True)])
    steps = [StepInput(slot, ids[-1:], (0,)) for slot, ids in zip(slots, texts, strict=True)]
    for mine, row in zip(alone, executor.step(steps).numpy(), strict=True):
        torch.testing.assert_close(torch.tensor(row), torch.tensor(mine), rtol=0, atol=1e-5)


def test_a_state_that_cannot_go_back_says_so_before_anything_changes() -> None:
    executor = TorchExecutor(hybrid())
    slot = executor.allocate(16)
    executor.step([StepInput(slot, [5, 9, 2, 7], ())])
    assert executor.rollback == 0
    assert executor.reaches(slot, 4)
    assert not executor.reaches(slot, 3)
    for attempt in (lambda: executor.truncate(slot, 3), lambda: executor.fork(slot, 16, 3)):
        with pytest.raises(UnsupportedError, match=r"layers\.1: a recurrent state is a sum"):
            attempt()
    whole = executor.fork(slot, 16)
    again = executor.step([StepInput(slot, [3], (0,)), StepInput(whole, [3], (0,))]).numpy()
    assert (again[0] == again[1]).all()
    executor.truncate(slot, 0)
    executor.step([StepInput(slot, [5, 9, 2, 7], ())])
    assert (executor.step([StepInput(slot, [3], (0,))]).numpy()[0] == again[0]).all()


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_an_engine_with_reuse_gives_every_request_its_own_answer(data: st.DataObject) -> None:
    """Turns that go on from earlier ones, or from a part of them, beside each other: none is lost, none is stale."""
    decoder = hybrid(data.draw(st.sampled_from(["llama", "qwen2"])))
    engine = Engine(TorchExecutor(decoder), max_batch=3, prefill_chunk=data.draw(st.integers(1, 6)))
    said: list[list[int]] = [[5, 6, 7]]
    for _ in range(data.draw(st.integers(1, 3))):
        requests = []
        for _ in range(data.draw(st.integers(1, 3))):
            earlier = data.draw(st.sampled_from(said))
            cut = data.draw(st.integers(1, len(earlier)) | st.just(len(earlier)))
            requests.append(ask(earlier[:cut] + data.draw(st.lists(st.integers(3, 90), max_size=3)), 4))
        for request, result in zip(requests, engine.run(requests), strict=True):
            assert result.answers[0].error is None
            assert list(result.answers[0].token_ids) == greedy(decoder, request.prompt_ids, 4)
            said.append([*request.prompt_ids, *result.answers[0].token_ids])


def test_a_conversation_that_goes_on_where_it_ended_is_not_computed_again() -> None:
    executor = TorchExecutor(hybrid().to(torch.bfloat16))  # where a prompt may be cut anywhere
    engine = Engine(executor)
    (first,) = engine.run([ask([5, 9, 2, 7])])[0].answers
    (second,) = engine.run([ask([5, 9, 2, 7, *first.token_ids, 30])])[0].answers
    assert second.timings.reused_tokens == 4 + 8 - 1
    (other,) = engine.run([ask([5, 9, 2, 8])])[0].answers
    assert (other.timings.reused_tokens, other.error) == (0, None)


def test_several_answers_to_one_prompt_part_from_its_state() -> None:
    decoder = hybrid()
    (result,) = Engine(TorchExecutor(decoder)).run([ask([5, 9, 2, 7], n=3)])
    assert [list(answer.token_ids) for answer in result.answers] == [greedy(decoder, [5, 9, 2, 7], 8)] * 3


def test_guessing_ahead_is_refused_at_once_and_by_name() -> None:
    with pytest.raises(ConfigError, match="take a wrong guess back"):
        Engine(TorchExecutor(hybrid()), speculate=PromptLookup(4))
    with pytest.raises(ConfigError, match="take a wrong guess back"):
        DraftModel(TorchExecutor(hybrid()))


def test_a_state_that_breaks_its_word_costs_one_answer_and_not_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = TorchExecutor(hybrid())
    executor._rollback = None  # so the engine believes
    engine = Engine(executor, speculate=PromptLookup(4), max_batch=2)
    plain = greedy(executor.decoder, [9, 8, 7], 12)
    repeated, other = engine.run([ask([3, 4, 5, 3, 4, 5, 3, 4], 12), ask([9, 8, 7], 12)])
    assert isinstance(repeated.answers[0].error, UnsupportedError)
    tokens = list(other.answers[0].token_ids)
    assert tokens == plain or isinstance(other.answers[0].error, UnsupportedError)


def test_a_forward_that_is_interrupted_leaves_a_recurrent_slot_empty_and_not_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = TorchExecutor(hybrid())
    slot, other = executor.allocate(16), executor.allocate(16)
    executor.step([StepInput(slot, [5, 9], ()), StepInput(other, [5, 9, 2], ())])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executor.decoder.layers[1], "think", interrupt)  # after the recurrence has moved on
        with pytest.raises(KeyboardInterrupt):
            executor.step([StepInput(slot, [2], (0,))])
    assert executor.length(slot) == 0
    executor.step([StepInput(slot, [5, 9, 2], ())])
    rows = executor.step([StepInput(slot, [7], (0,)), StepInput(other, [7], (0,))]).numpy()
    assert (rows[0] == rows[1]).all()


@pytest.mark.parametrize("chunk", [2, 512])
@pytest.mark.parametrize("name", ["q", "k"])
def test_what_the_fused_kernel_hides_ends_the_request_with_layer_and_tensor(name: str, chunk: int) -> None:
    decoder = hybrid("qwen2")
    with torch.no_grad():
        decoder.get_parameter(f"layers.0.attention.{name}_proj.bias").fill_(math.nan)
    (result,) = Engine(TorchExecutor(decoder), prefill_chunk=chunk).run([ask([5, 9, 2, 7, 3])])
    error = result.answers[0].error
    assert isinstance(error, NotFiniteError)
    assert f"layers.0.attention.{name}_proj.bias" in str(error)
