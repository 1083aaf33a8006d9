"""The loss: chunked cross-entropy equals torch's on whole logits; any split of a batch gives the same gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.config import ModelConfig
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.objectives.head_loss import HeadLoss
from pellucid.train.objectives.loss import language_loss, token_nll
from pellucid.train.runs.loop import accumulate


def decoder(family: str = "llama", **changes: object) -> Decoder:
    config: ModelConfig = replace(FAMILIES[family].config(FAMILIES[family].TINY), **changes)  # type: ignore[arg-type]
    model = Decoder(config).initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embed.weight.mul_(10)  # logits large enough for a soft-cap to bend
    return model


def batch(rows: int = 3, length: int = 16, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(96, (rows, length + 1), generator=generator)
    targets = ids[:, 1:].clone()
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = IGNORED
    return Batch.of(ids[:, :-1], targets)


def gradients(model: Decoder) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def whole(model: Decoder, its: Batch, z_loss: float) -> Tensor:
    """The oracle: torch's own cross-entropy of all logits at once."""
    ctx = Context(its.positions)
    logits = model(its.token_ids, ctx).flatten(0, 1).float()
    targets = its.targets.flatten()
    z = logits.logsumexp(-1)[targets != IGNORED].square().sum()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") + z_loss * z


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_value_and_gradients_equal_torch_on_whole_logits(
    tied: bool, softcap: float | None, z_loss: float, chunk_rows: int
) -> None:
    model, its = decoder(tie_embeddings=tied, logit_softcap=softcap), batch()
    expected = whole(model, its, z_loss)
    (0.25 * expected).backward()
    wanted = gradients(model)
    loss = language_loss(model, its, z_loss=z_loss, chunk_rows=chunk_rows)
    (0.25 * loss.total).backward()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-5)


def test_any_output_head_gives_the_same_loss_by_recomputation() -> None:
    class Other(type(decoder(tie_embeddings=False).lm_head)):  # type: ignore[misc]
        """Not the plain Linear: as LoRA's would be."""

    model, its = decoder(tie_embeddings=False, logit_softcap=3.0), batch()
    plain = language_loss(model, its, z_loss=1e-2, chunk_rows=7)
    plain.total.backward()
    wanted = gradients(model)
    assert model.lm_head is not None
    model.lm_head.__class__ = Other
    other = language_loss(model, its, z_loss=1e-2, chunk_rows=7)
    other.total.backward()
    torch.testing.assert_close(other.total, plain.total)
    torch.testing.assert_close(other.nll, plain.nll)
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-5)


def test_each_token_can_be_weighed() -> None:
    model, its = decoder(), batch()
    hidden = model.hidden(its.token_ids, Context(its.positions)).flatten(0, 1)
    nll, _ = token_nll(model, hidden, its.targets.flatten(), Context(its.positions), chunk_rows=7)
    logits = model(its.token_ids, Context(its.positions)).flatten(0, 1)
    torch.testing.assert_close(nll, F.cross_entropy(logits, its.targets.flatten(), reduction="none"))


def test_whole_logits_are_never_made() -> None:
    class Watch(TorchDispatchMode):
        most_rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.ndim == 2 and made.shape[1] == 96:
                self.most_rows = max(self.most_rows, made.shape[0])
            return made

    model, its = decoder(), batch(rows=8)
    with Watch() as watch:
        language_loss(model, its, chunk_rows=5).total.backward()
    assert watch.most_rows == model.config.d_model  # the head's gradient, on its side
    with Watch() as watch:
        language_loss(model, its).total.backward()
    assert watch.most_rows == its.num_targets > model.config.d_model


@pytest.mark.parametrize("softcap", [None, 200.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_logits_beyond_the_range_of_exp_give_the_same_gradients(softcap: float | None, z_loss: float) -> None:
    """exp(89) is no float32: such a chunk goes through its softmax. Oracle: torch's cross-entropy in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = 75 * torch.randn(24, 16, generator=generator), torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (24,), generator=generator)

    def leaves(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return hidden.to(dtype, copy=True).requires_grad_(), weight.to(dtype, copy=True).requires_grad_()

    (h, w), (expected_h, expected_w) = leaves(torch.float32), leaves(torch.float64)
    logits = expected_h @ expected_w.mT
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, targets, reduction="sum") + z_loss * logits.logsumexp(-1).square().sum()
    expected.backward()
    total, _ = HeadLoss.apply(h, w, targets, softcap, z_loss, 10, True)  # type: ignore[misc]
    total.backward()
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in ((h, expected_h), (w, expected_w)):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm()


def test_in_bfloat16_gradients_are_as_exact_as_its_products_even_where_the_model_is_sure() -> None:
    """Where p(target) is 0.999, p − 1 must not drown in the rounding of p and 1: one part in 256 is all a product can
    have.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 64, generator=generator).bfloat16().float()
    targets = torch.randint(200, (100,), generator=generator)
    hidden = (weight[targets] * 0.18 + 0.1 * torch.randn(100, 64, generator=generator)).bfloat16().float()
    exact_h, exact_w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    logits = exact_h @ exact_w.mT
    F.cross_entropy(
        logits + (logits.detach().bfloat16() - logits.detach()), targets, reduction="sum"
    ).backward()  # of logits that are bfloat16
    assert logits.softmax(-1).gather(1, targets[:, None]).median() > 0.99
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = HeadLoss.apply(h, w, targets, None, 0.0, 64, True)  # type: ignore[misc]
    total.backward()
    for ours, theirs in ((h, exact_h), (w, exact_w)):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= 1e-2 * theirs.grad.norm()


def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient() -> None:
    model, its = decoder(), batch()
    loss = language_loss(model, Batch.of(its.token_ids, torch.full_like(its.targets, IGNORED)))
    loss.total.backward()
    assert loss.num_targets == 0
    assert loss.total.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model).values())


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 6), seed=st.integers(0, 1000))
def test_any_split_of_a_batch_gives_the_same_gradients(rows: int, seed: int) -> None:
    model, its = decoder(), batch(rows=6, seed=seed)
    (whole(model, its, 0.0) / its.num_targets).backward()
    wanted = gradients(model)
    loss = accumulate(model, its.split(rows), language_loss).nll
    torch.testing.assert_close(loss, (whole(model, its, 0.0) / its.num_targets).detach())
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-6)
