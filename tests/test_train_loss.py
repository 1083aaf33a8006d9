"""The loss: chunked cross-entropy equals torch's on whole logits; any split of a batch gives the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.train.batch import IGNORED, Batch
from pellucid.train.loop import accumulate
from pellucid.train.loss import language_loss, token_nll


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
def test_value_and_gradients_equal_torch_on_whole_logits(tied: bool, softcap: float | None, z_loss: float, chunk_rows: int) -> None:
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


def test_whole_logits_are_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    of = F.log_softmax

    def watched(rows: Tensor, dim: int) -> Tensor:
        nonlocal largest
        largest = max(largest, rows.shape[0])
        return of(rows, dim)

    monkeypatch.setattr(F, "log_softmax", watched)
    language_loss(decoder(), batch(), chunk_rows=5).total.backward()
    assert largest == 5


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
    loss = accumulate(model, its.split(rows), language_loss)
    torch.testing.assert_close(loss, (whole(model, its, 0.0) / its.num_targets).detach())
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-6)
