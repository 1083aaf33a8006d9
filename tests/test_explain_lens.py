"""The lens ends at what the model says, attributions sum to the logit, surprise is the cross-entropy."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import reference_model, telling, tiny
from test_operations_reference import DESCRIPTIONS, random_decoder
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain import Ablate, attribution, compare, lens, surprise, trace
from pellucid.explain.trace import Trace
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.decoder import Layer
from pellucid.model.norm import LayerNorm, RMSNorm
from pellucid.operations import taps_of

EVERY = pytest.mark.parametrize("family", telling(list(FAMILIES)))
IDS = [5, 6, 7, 8, 9, 10, 11, 12]
BATCH = [IDS, [3, 4, 5]]


def weight_of(norm: Any) -> torch.Tensor:
    """γ, of a norm that has one."""
    assert norm.weight is not None
    return norm.weight


@EVERY
def test_the_last_row_of_the_lens_is_the_models_own_prediction(family: str) -> None:
    t = trace(tiny(family), None, BATCH)
    seen = lens(t, k=96)
    assert seen.names[0] == "layers.0.resid_pre"
    assert len(seen.names) == tiny(family).config.num_layers + 1
    probabilities = t["logits"].softmax(-1)
    torch.testing.assert_close(seen.top_probabilities[-1], probabilities.sort(descending=True).values)
    assert (seen.rank[-1] == 1).all()
    assert seen.kl[-1].max() < 1e-5
    assert seen.kl[0].min() > 1e-3
    json.dumps(seen.to_json(), allow_nan=False)


def test_the_lens_before_the_end_is_the_norm_and_the_output_layer() -> None:
    decoder = tiny("llama")
    t = trace(decoder, None, IDS)
    assert decoder.final_norm
    expected = (decoder.final_norm(t["layers.0.resid_post"][0, 4]) @ decoder.embed.weight.T).softmax(-1)
    seen = lens(t, positions=[4], tokens=17)
    assert seen.chosen_probability[1, 0, 0] == pytest.approx(expected[17].item(), rel=1e-5)
    assert seen.rank[1, 0, 0] == int((expected > expected[17]).sum()) + 1


@EVERY
def test_attributions_sum_to_the_logit(family: str) -> None:
    t = trace(tiny(family), None, BATCH)
    for position in range(len(IDS)):
        found = attribution(t, position)
        assert found.logit == pytest.approx(uncapped(t, t["logits"][0, position].max()).item(), rel=1e-5)
        assert found.error < 1e-5


def uncapped(t: Trace, logit: Tensor) -> Tensor:
    """The logit before the soft cap."""
    cap = t.config.logit_softcap
    return logit.double() if cap is None else cap * torch.atanh(logit.double() / cap)


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_parts_sum_to_the_logit_wherever_norms_stand(description: str) -> None:
    """Of any description: sandwich norms, parts side by side, a norm over all heads, offsets, caps, experts."""
    decoder = random_decoder(DESCRIPTIONS[description])
    t = trace(decoder, None, IDS)
    its = attribution(t, token=5, against=7)
    five, seven = (uncapped(t, t["logits"][0, -1, i]) for i in (5, 7))
    assert its.logit == pytest.approx((five - seven).item(), rel=1e-4)
    assert its.error < 1e-4 * abs(its.logit)
    assert {part.kind for part in its.parts} >= {"embed", "head", "mlp"}


@pytest.mark.parametrize("description", ["sandwich", "parallel, one norm", "all three"])
def test_a_head_behind_a_norm_of_its_own_adds_what_the_gradient_says(description: str) -> None:
    """By autograd through the layer, with every deviation held."""
    decoder = random_decoder(DESCRIPTIONS[description]).double()
    t, layer = trace(decoder, None, IDS), decoder.layers[1]
    assert isinstance(layer, Layer)
    z = t["layers.1.z"].clone().requires_grad_()
    o = held(layer.attention_post_norm, layer.attention.o_proj(z.transpose(1, 2).flatten(2), Context(t.position_ids)))
    stream, y = t["layers.1.resid_pre"] + o, t["layers.1.mlp_out"]
    if not layer.parallel:
        stream = held(layer.attention_sum_norm, stream)
    final = held(decoder.final_norm, held(layer.mlp_sum_norm, stream + y))
    head = decoder.embed.weight if decoder.head is None else decoder.head.weight
    (gradient,) = torch.autograd.grad(final[0, -1] @ (head[5] - head[7]), z)
    expected = (z * gradient)[0, :, -1].sum(-1).tolist()
    heads = [part for part in attribution(t, token=5, against=7).parts if part.kind == "head" and part.layer == 1]
    assert [part.value for part in heads] == pytest.approx(expected, abs=1e-9)


def held(norm: LayerNorm | RMSNorm | None, x: Tensor) -> Tensor:
    """A norm with its deviation held: no gradient goes through it."""
    if norm is None:
        return x
    x = x - x.mean(-1, keepdim=True) if isinstance(norm, LayerNorm) else x
    y = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach() * (weight_of(norm) + norm.offset)
    return y + norm.bias if isinstance(norm, LayerNorm) and norm.bias is not None else y


@EVERY
def test_attribution_of_a_difference_is_the_difference_of_logits(family: str) -> None:
    t = trace(tiny(family), None, IDS)
    found = attribution(t, token=5, against=7)
    five, seven = (uncapped(t, t["logits"][0, -1, i]) for i in (5, 7))
    assert found.logit == pytest.approx((five - seven).item(), abs=1e-5)
    assert found.error < 1e-5


@EVERY
def test_heads_and_neurons_are_ranked_by_what_they_add(family: str) -> None:
    found = attribution(trace(tiny(family), None, IDS))
    sizes = [abs(part.value) for part in found.heads()]
    taps = taps_of(tiny(family).config).values()
    heads = [tap.shape(1, 1, 1)[1] for tap in taps if tap.operation.part == "head"]
    assert len(sizes) == sum(heads)
    assert heads or not any(layer.attends for layer in tiny(family).config.layers)
    assert sizes == sorted(sizes, reverse=True)
    neurons = found.neurons(10)
    assert [abs(n.value) for n in neurons] == sorted((abs(n.value) for n in neurons), reverse=True)
    for layer, values in enumerate(found.neuron_values):
        of = tiny(family).config.layers[layer]
        if of.experts or not of.mlp:  # experts' neurons are not recorded
            continue
        assert values.sum().item() == pytest.approx(
            next(p.value for p in found.parts if p.kind == "mlp" and p.layer == layer), abs=1e-9
        )
    json.dumps(found.to_json())


def test_a_head_of_the_last_layer_adds_what_the_gradient_says() -> None:
    """Held norms make the logit linear in z, so a head's share is z · ∂logit/∂z of that linear map; autograd with σ
    detached agrees.
    """
    decoder, t = tiny("gpt2"), trace(tiny("gpt2"), None, IDS)
    token = int(t["logits"][0, -1].argmax())
    z = t["layers.1.z"][0, :, -1].double().requires_grad_()
    mid = t["layers.1.resid_pre"][0, -1].double() + F.linear(
        z.flatten(), t.weight("layers.1.attention.o_proj.weight").double()
    )
    stream = t["layers.1.resid_post"][0, -1].double()
    assert decoder.final_norm
    sigma = (stream.var(correction=0) + decoder.final_norm.eps).sqrt()
    logit = ((mid - mid.mean()) / sigma * weight_of(decoder.final_norm).double()) @ decoder.embed.weight[token].double()
    (gradient,) = torch.autograd.grad(logit, z)
    expected = (z * gradient).sum(-1).tolist()
    found = {part.head: part.value for part in attribution(t).parts if part.kind == "head" and part.layer == 1}
    assert [found[head] for head in range(4)] == pytest.approx(expected, abs=1e-9)


@EVERY
def test_surprise_is_the_cross_entropy_of_the_next_token(family: str) -> None:
    decoder = tiny(family)
    t = trace(decoder, None, IDS)
    found = t.surprise()
    if family != "vanilla":
        ids = torch.tensor([IDS])
        loss = reference_model(decoder)(ids, labels=ids).loss
        assert found.mean_nats == pytest.approx(loss.item(), rel=1e-5)
    assert found.nats[0, -1].isnan()
    assert found.perplexity == pytest.approx(math.exp(found.mean_nats))
    assert found.bits[0, 0] == pytest.approx(found.nats[0, 0].item() / math.log(2))


def test_surprise_of_padding_is_not_counted() -> None:
    t = trace(tiny("llama"), None, BATCH)
    alone = trace(tiny("llama"), None, BATCH[1]).surprise()
    torch.testing.assert_close(t.surprise().nats[1, :2], alone.nats[0, :2])
    assert t.surprise().nats[1, 2:].isnan().all()


def test_ones_own_target_is_scored_at_the_end_of_each_text() -> None:
    t = trace(tiny("llama"), None, BATCH)
    found = surprise(t, 42)
    assert found.nats[0, 7].item() == pytest.approx(-t["logits"][0, 7].log_softmax(-1)[42].item(), rel=1e-5)
    assert found.nats[1, 2].item() == pytest.approx(-t["logits"][1, 2].log_softmax(-1)[42].item(), rel=1e-5)
    json.dumps(found.to_json(), allow_nan=False)


def test_targets_that_do_not_fit_are_refused() -> None:
    t = trace(tiny("llama"), None, IDS)
    for targets in (96, [1, 2, 3], "text without a tokenizer"):
        with pytest.raises(RequestError):
            surprise(t, targets)


def test_a_comparison_says_where_runs_part_and_what_it_does() -> None:
    decoder = tiny("llama")
    plain, edited = trace(decoder, None, IDS), trace(decoder, None, IDS, edits=[Ablate("layers.1", head=0)])
    found = compare(plain, edited)
    assert found.first_change == "layers.1.z"
    assert "layers.1.pattern" in found.unchanged
    p, q = plain["logits"].log_softmax(-1), edited["logits"].log_softmax(-1)
    expected = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(torch.tensor(found.kl), expected, atol=1e-6, rtol=1e-4)
    moved = found.tokens[0]
    assert moved.before == pytest.approx(p[0, -1, moved.token].exp().item())
    assert moved.after == pytest.approx(q[0, -1, moved.token].exp().item())


def test_texts_of_different_length_are_compared_at_their_ends() -> None:
    decoder = tiny("llama")
    assert len(compare(trace(decoder, None, IDS), trace(decoder, None, IDS[:4])).kl[0]) == 1
