"""Any cell of any matrix: its operands are the recorded cells, they make its value, they lead back to the letters."""

from __future__ import annotations

import json
import math
import time
import xml.etree.ElementTree as xml

import numpy as np
import pytest
import torch
from reference import telling, tiny
from test_operations_reference import DESCRIPTIONS, random_decoder

from pellucid.base.errors import RequestError
from pellucid.explain import Operands, Trace, operands, trace
from pellucid.explain.show.mathml import mathml
from pellucid.families import FAMILIES

EVERY = pytest.mark.parametrize("family", telling(list(FAMILIES)))
BATCH = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [3, 4, 5, 6, 7]]


def cells_of(t: Trace, per_step: int = 6) -> list[Operands]:
    """A few cells of every step, drawn by a fixed seed."""
    rng = np.random.default_rng(0)
    return [
        operands(t, path, tuple(int(rng.integers(size)) for size in value.shape))
        for path, value in t.items()
        for _ in range(per_step)
    ]


@EVERY
def test_the_operands_make_the_recorded_value_in_every_kind_of_step(family: str) -> None:
    t = trace(tiny(family), None, BATCH)
    for found in cells_of(t):
        value = t[found.name]
        scale = value[torch.isfinite(value)].abs().max().item()
        assert found.value == value[found.index].item()
        assert found.error <= 1e-6 * scale, found


@EVERY
def test_every_operand_is_the_cell_it_names(family: str) -> None:
    t = trace(tiny(family), None, BATCH)
    for found in cells_of(t):
        for cell in found.cells:
            where = {"step": lambda name: t[name], "weight": t.weight, "token": lambda name: getattr(t, name)}[
                cell.source
            ]
            assert where(cell.name)[cell.index].item() == cell.value, (found.name, cell)


@EVERY
def test_terms_are_sorted_by_size_and_with_the_rest_they_are_the_sum(family: str) -> None:
    t = trace(tiny(family), None, BATCH)
    for found in cells_of(t):
        sizes = [abs(term.value) for term in found.terms]
        assert sizes == sorted(sizes, reverse=True)
        if found.kind in ("linear", "mix", "sum", "copy", "lookup", "rotate"):
            total = found.parts.get("sum", found.recomputed)  # before it is scaled and capped
            assert sum(term.value for term in found.terms) + found.rest_sum == pytest.approx(total, abs=1e-12)


@EVERY
def test_everything_is_plain_json_and_every_equation_is_mathml(family: str) -> None:
    for found in cells_of(trace(tiny(family), None, BATCH), per_step=2):
        json.dumps(found.to_json(), allow_nan=False)
        xml.fromstring(mathml(found.latex))


@EVERY
def test_one_can_walk_from_the_predicted_token_back_to_the_letters(family: str) -> None:
    t = trace(tiny(family), None, BATCH[0])
    name, index = "logits", (0, 11, int(t["logits"][0, 11].argmax()))
    order = {path: place for place, path in enumerate(t)}
    for _ in range(len(order)):
        found = operands(t, name, index)
        heaviest = next(cell for cell in found.cells if cell.source != "weight")
        if heaviest.source == "token":
            assert getattr(t, heaviest.name)[heaviest.index].item() == heaviest.value
            return
        assert order[heaviest.name] < order[name]
        name, index = heaviest.name, heaviest.index
    pytest.fail("the walk did not end")


def test_a_worked_example() -> None:
    """One neuron by hand: the dot product of its input with its row of the weight."""
    t = trace(tiny("llama"), None, BATCH[0])
    found = operands(t, "layers.0.mlp_pre", (0, 3, 17), max_terms=4)
    x, w = t["layers.0.mlp_in"][0, 3].double(), t.weight("layers.0.mlp.gate_proj.weight")[17].double()
    largest = int((x * w).abs().argmax())
    assert found.recomputed == pytest.approx(float(x @ w))
    assert len(found.terms) == 4
    assert found.rest_count == 28
    assert found.terms[0].cells[0].index == (0, 3, largest)
    assert found.terms[0].cells[1].index == (17, largest)


def test_a_bias_is_a_term_of_its_own() -> None:
    t = trace(tiny("gpt2"), None, BATCH[0])
    found = operands(t, "layers.1.attn_out", (0, 5, 2))
    assert any(cell.name == "layers.1.attention.o_proj.bias" for term in found.terms for cell in term.cells)


def test_a_norm_shows_mean_deviation_scale_and_shift() -> None:
    t = trace(tiny("gpt2"), None, BATCH[0])
    parts = operands(t, "layers.0.attn_in", (0, 4, 9)).parts
    x = t["layers.0.resid_pre"][0, 4].double()
    assert parts["mu"] == pytest.approx(float(x.mean()))
    assert parts["sigma"] == pytest.approx(math.sqrt(float(x.var(correction=0)) + parts["eps"]))
    assert parts["gamma"] * (parts["x"] - parts["mu"]) / parts["sigma"] + parts["beta"] == pytest.approx(
        t["layers.0.attn_in"][0, 4, 9].item()
    )


def test_a_softmax_shows_its_maximum_and_its_sum() -> None:
    t = trace(tiny("llama"), None, BATCH[0])
    found = operands(t, "layers.0.pattern", (0, 1, 5, 2))
    row = t["layers.0.scores"][0, 1, 5, :6].double()
    assert found.parts["max"] == float(row.max())
    assert found.parts["logsumexp"] == pytest.approx(float(row.logsumexp(0)))
    assert len(found.terms) == 6  # none for what it must not see


@pytest.mark.parametrize(
    ("family", "index", "reason"),
    [("llama", (0, 0, 3, 5), "later"), ("qwen2", (0, 0, 11, 2), "window"), ("llama", (1, 0, 9, 6), "padding")],
)
def test_a_masked_score_says_why(family: str, index: tuple[int, ...], reason: str) -> None:
    t = trace(tiny(family), None, BATCH)
    found = operands(t, "layers.1.scores", index)
    assert found.masked == reason
    assert found.value == found.recomputed == -math.inf
    assert found.to_json()["value"] is None


def test_cells_of_chosen_positions_lead_to_the_right_keys() -> None:
    t = trace(tiny("llama"), None, BATCH[0], positions=[4, 9])
    found = operands(t, "layers.1.z", (0, 1, 1, 3))
    assert found.error < 1e-6
    assert max(cell.index[2] for cell in found.cells if cell.name == "layers.1.v") <= 9
    with pytest.raises(RequestError, match="position 2 was not kept"):
        operands(t, "layers.1.k", (0, 0, 2, 1))


def test_a_cell_outside_the_tensor_is_refused() -> None:
    with pytest.raises(RequestError, match="no such cell"):
        operands(trace(tiny("llama"), None, BATCH[0]), "final", (0, 12, 0))


def test_the_soft_cap_of_scores_and_logits_is_in_the_equation() -> None:
    from dataclasses import replace

    from pellucid.model.decoder import Decoder

    config = tiny("llama").config
    layers = tuple(replace(layer, mixer=replace(layer.mixer, softcap=2.0)) for layer in config.layers)
    decoder = (
        Decoder(replace(config, layers=layers, logit_softcap=3.0)).initialize(torch.Generator().manual_seed(0)).eval()
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8)
    t = trace(decoder, None, BATCH[0])
    assert t.checks.ok, t.checks.failed
    for path, index in (("layers.0.scores", (0, 0, 5, 2)), ("logits", (0, 5, 7))):
        found = operands(t, path, index)
        assert found.error < 1e-6
        assert "tanh" in found.latex


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_cells_and_identities_of_every_description(description: str) -> None:
    """Norms after parts and over sums, q and k as a whole, γ + 1, caps, windows, scalings: none has a case here."""
    t = trace(random_decoder(DESCRIPTIONS[description]), None, BATCH)
    assert t.checks.ok, t.checks.failed
    for why in cells_of(t, per_step=3):
        value = t[why.name]
        assert why.error <= 2e-6 * value[torch.isfinite(value)].abs().max().item(), why
        xml.fromstring(mathml(why.latex))


def test_a_cell_is_found_in_under_20_ms() -> None:
    """At the width of a real model: d_model 576, vocabulary 49152."""
    from pellucid.families import llama
    from pellucid.model.decoder import Decoder

    wide = llama.TINY | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    t = trace(
        Decoder(llama.config(wide | {"num_hidden_layers": 1})).initialize().requires_grad_(False),
        None,
        [list(range(32))],
    )
    for path, value in t.items():
        index = tuple(size - 1 for size in value.shape)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            operands(t, path, index).to_json()
            times.append(time.perf_counter() - start)
        assert min(times) < 0.02, path
