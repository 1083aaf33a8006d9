"""Causes are exact: what is carried along as one batch equals a run of its own for each edit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import telling, tiny

from pellucid.base.errors import RequestError
from pellucid.explain import (
    Ablate,
    Edit,
    Patch,
    Trace,
    attribution,
    causal_map,
    habits_of,
    head_card,
    patch_map,
    trace,
)
from pellucid.explain.branches import branches, groups
from pellucid.explain.questions.cards import _masks
from pellucid.explain.questions.causal import causal_maps, dose, parts_of
from pellucid.explain.questions.contrast import Contrast, answer_of, contrast
from pellucid.explain.questions.patching import movers
from pellucid.families import FAMILIES

EVERY = pytest.mark.parametrize("family", telling(list(FAMILIES)))
IDS = [5, 6, 7, 8, 9, 10, 11, 12]
OTHER = [5, 6, 7, 20, 9, 10, 11, 12]


def gap(run: Trace, a: int, b: int, position: int = -1) -> float:
    return float(run["logits"][0, position, a].float() - run["logits"][0, position, b].float())


@EVERY
def test_every_parts_effect_is_that_of_a_run_without_it(family: str) -> None:
    plain = trace(tiny(family), None, IDS)
    told = causal_map(plain, 3, 7)
    scale = plain["logits"].abs().max().item()
    assert told.gap == pytest.approx(gap(plain, 3, 7), abs=1e-4 * scale)
    assert [effect.part for effect in told.effects] == parts_of(plain.model)
    assert {part.layer for part in parts_of(plain.model)} == set(range(plain.config.num_layers))
    for effect in told.effects:
        alone = trace(plain.model, None, IDS, edits=[effect.part.scaled(0.0)], steps=["logits"])
        assert effect.change == pytest.approx(gap(alone, 3, 7) - gap(plain, 3, 7), abs=2e-4 * scale), effect.part
        assert alone["logits"][0, -1, effect.then] == pytest.approx(alone["logits"][0, -1].max().item(), abs=1e-3)


def test_a_heads_effect_is_what_ablation_says() -> None:
    plain = trace(tiny("llama"), None, IDS)
    told = causal_map(plain, 3, 7)
    heads = told.heads()
    assert heads.shape == (2, 4)
    for layer in range(2):
        for head in range(4):
            alone = trace(plain.model, None, IDS, edits=[Ablate(f"layers.{layer}", head=head)])
            assert heads[layer, head].item() == pytest.approx(gap(alone, 3, 7) - gap(plain, 3, 7), abs=1e-4)


def test_a_map_of_an_earlier_position_does_not_see_what_follows() -> None:
    model = tiny("llama")
    whole, cut = trace(model, None, IDS), trace(model, None, IDS[:5])
    a = causal_map(whole, 3, 7, position=4)
    b = causal_map(cut, 3, 7)
    assert [effect.change for effect in a.effects] == pytest.approx([effect.change for effect in b.effects], abs=1e-4)


def test_answers_come_from_the_last_layers_first_and_are_the_same_in_any_batches() -> None:
    plain = trace(tiny("mixtral"), None, IDS)
    parts, chosen = parts_of(plain.model), Contrast(7, 3, 7)
    streamed = [some for _, some in causal_maps(plain, chosen, parts, tokens=1)]
    assert [some[0].part.layer for some in streamed] == [1, 0]
    whole = {effect.part: effect.change for effect in causal_map(plain, 3, 7).effects}
    for effect in (effect for some in streamed for effect in some):
        assert effect.change == pytest.approx(whole[effect.part], abs=1e-4)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 9), st.integers(1, 60), st.integers(1, 6))
def test_groups_cover_every_layer_once_from_the_last(sizes: list[int], length: int, most: int, least: int) -> None:
    made = list(groups(sizes, length, most, least))
    assert [layer for group in reversed(made) for layer in group] == list(range(len(sizes)))
    assert len(made) >= min(least, len(sizes)) or least > len(sizes) // 2
    for group in made:
        assert len(group) == 1 or sum(sizes[layer] for layer in group) * length <= most


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["resid_pre", "z", "mlp_out", "resid_post"])), max_size=6))
def test_edits_side_by_side_are_each_as_if_alone(where: list[tuple[int, str]]) -> None:
    plain = trace(tiny("gemma2"), None, IDS)
    edits = [
        Edit(f"layers.{layer}.{name}", lambda value, _, n=n: value * (0.5 + n)) for n, (layer, name) in enumerate(where)
    ]
    run = branches(plain, edits)
    torch.testing.assert_close(run.plain, plain["logits"][0, -1], rtol=1e-4, atol=1e-4)
    for logits, edit in zip(run.edited, edits, strict=True):
        alone = trace(plain.model, None, IDS, edits=[edit], steps=["logits"])["logits"][0, -1]
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


def test_an_edit_outside_the_layers_is_refused() -> None:
    plain = trace(tiny("llama"), None, IDS)
    with pytest.raises(RequestError, match="only steps of layers"):
        branches(plain, [Ablate("embed")])
    with pytest.raises(RequestError, match="no step"):
        branches(plain, [Ablate("layers.9.z")])


def test_a_dose_goes_from_the_run_as_it_is_to_the_part_silenced() -> None:
    plain = trace(tiny("llama"), None, IDS)
    told = causal_map(plain, 3, 7)
    strongest = told.ranked()[0]
    curve = dose(plain, told.contrast, strongest.part, [1.0, 0.5, 0.0])
    assert curve[0] == pytest.approx(told.gap, abs=1e-5)
    assert curve[2] == pytest.approx(told.gap + strongest.change, abs=1e-5)
    half = trace(plain.model, None, IDS, edits=[strongest.part.scaled(0.5)])
    assert curve[1] == pytest.approx(gap(half, 3, 7), abs=1e-4)


@EVERY
def test_the_share_that_a_cell_brings_back_is_that_of_a_patched_run(family: str) -> None:
    source, target = trace(tiny(family), None, IDS), trace(tiny(family), None, OTHER)
    told = patch_map(source, target, 3, 7)
    whole = gap(source, 3, 7) - gap(target, 3, 7)
    assert told.gaps == pytest.approx((gap(source, 3, 7), gap(target, 3, 7)), abs=1e-3)
    assert told.first == 3
    assert not told.share[:, :3].any()
    for layer, token in ((0, 3), (1, 3), (1, 5), (0, 6)):
        path = f"layers.{layer}.resid_pre"
        alone = trace(target.model, None, OTHER, edits=[Patch(path, source, positions=[token])], steps=["logits"])
        share = (gap(alone, 3, 7) - gap(target, 3, 7)) / whole
        assert told.share[layer, token].item() == pytest.approx(share, abs=2e-3, rel=2e-3)
    assert told.share[-1, -1].item() == pytest.approx(1.0, abs=1e-3)  # the last stream is all that the answer reads
    assert told.share[-1, :-1].abs().max() < 1e-3
    if target.config.layers[0].side is None:  # a layer that looks tokens up by their ids does so once more
        assert told.share[0, 3].item() == pytest.approx(1.0, abs=1e-3)


def test_movers_are_each_head_and_mlp_taken_by_itself() -> None:
    source, target = trace(tiny("llama"), None, IDS), trace(tiny("llama"), None, OTHER)
    told = patch_map(source, target, 3, 7)
    whole = told.gaps[0] - told.gaps[1]
    made = movers(source, target, told.contrast, 1, 7)
    assert [mover.share for mover in made] == sorted((mover.share for mover in made), reverse=True)
    for mover in made:

        def take(value: torch.Tensor, path: str, mover=mover) -> torch.Tensor:
            value = value.clone()
            at = (0, 7) if mover.part.head is None else (0, mover.part.head, 7)
            value[at] = source[path][at]
            return value

        alone = trace(target.model, None, OTHER, edits=[Edit(mover.part.path, take)])
        assert mover.share == pytest.approx((gap(alone, 3, 7) - told.gaps[1]) / whole, abs=1e-3)


def test_texts_that_cannot_be_compared_are_refused() -> None:
    model = tiny("llama")
    with pytest.raises(RequestError, match="as many tokens"):
        patch_map(trace(model, None, IDS), trace(model, None, IDS[:-1]), 3, 7)
    with pytest.raises(RequestError, match="the same up to there"):
        patch_map(trace(model, None, IDS), trace(model, None, IDS), 3, 7)
    with pytest.raises(RequestError, match="same token"):
        causal_map(trace(model, None, IDS), 3, 3)


def test_answers_are_words_as_one_writes_them(tiny_model) -> None:
    model, tokenizer = tiny_model
    run = trace(model, tokenizer, "The king and the queen")
    logits = run["logits"][0, -1]
    are = answer_of(run.prompt, "king", logits)
    assert run.piece(are).strip() == "king"
    assert (
        answer_of(run.prompt, " king", logits)
        == run.prompt.tokenizer(" king", add_special_tokens=False)["input_ids"][0]
    )
    with pytest.raises(RequestError, match="not one token but"):
        answer_of(run.prompt, "kingkingking", logits)
    best, second = logits.topk(2).indices.tolist()
    assert contrast(run) == Contrast(len(run.tokens[0]) - 1, best, second)
    assert contrast(run, a=second).b == best
    assert "logit(" in str(causal_map(run, "king", "man"))


@pytest.fixture(scope="module")
def tiny_model():
    from pellucid import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained("tiny"), AutoTokenizer.from_pretrained("tiny")


def test_an_edited_runs_causes_keep_its_edits() -> None:
    """The pattern as well, which the fused kernel never shows."""
    edit = Ablate("layers.0.pattern", head=1)
    edited = trace(tiny("llama"), None, IDS, edits=[edit])
    for effect in causal_map(edited, 3, 7).effects:
        alone = trace(edited.model, None, IDS, edits=[edit, effect.part.scaled(0.0)], steps=["logits"])
        assert effect.change == pytest.approx(gap(alone, 3, 7) - gap(edited, 3, 7), abs=1e-3)


@EVERY
def test_what_a_card_adds_is_what_attribution_says_the_head_adds(family: str) -> None:
    """For every token at hand, forth and back are the same number."""
    run = trace(tiny(family), None, IDS)
    layers = [i for i, layer in enumerate(run.config.layers) if layer.attends]
    if not layers:
        with pytest.raises(RequestError, match="does not attend"):
            head_card(run, 0, 0)
        return
    layer = layers[0]
    card = head_card(run, layer, 1)
    for token in (3, 7):
        told = attribution(run, -1, token)
        value = next(p.value for p in told.parts if p.kind == "head" and p.name == f"layers.{layer}.z" and p.head == 1)
        assert card.added[token].item() == pytest.approx(value, rel=1e-4, abs=1e-5 * card.added.abs().max().item())
    shares = run[f"layers.{layer}.pattern"][0, 1, -1]
    best = shares.topk(3)
    assert [source.position for source in card.sources] == best.indices.tolist()
    assert [source.share for source in card.sources] == pytest.approx(best.values.tolist())


def test_a_heads_habits_are_shares_of_its_attention(tiny_model) -> None:
    model, tokenizer = tiny_model
    habits = habits_of(model, tokenizer)
    assert habits is not None
    assert habits.shape == (model.config.num_layers, model.config.layers[0].mixer.num_heads, 5)
    assert habits.min() >= 0
    assert habits.max() <= 1
    assert (habits[..., :3].sum(-1) <= 1 + 1e-5).all()  # of different keys, but at the first few queries
    card = head_card(trace(model, tokenizer, "My lord, the king is"), 1, 0, habits=habits)
    assert card.habits["previous"] == pytest.approx(habits[1, 0, 0].item())
    assert "promotes" in str(card)


def test_the_masks_of_habits_on_a_worked_example() -> None:
    """a b c a b: at the second b, the same is 1, after the same is 2; at the second a, 0 and 1."""
    previous, own, first, induction, same = (mask for mask, _ in _masks(torch.tensor([1, 2, 3, 1, 2])))
    assert previous[4].tolist() == [0, 0, 0, 1, 0]
    assert own[4].tolist() == [0, 0, 0, 0, 1]
    assert first[4].tolist() == [1, 0, 0, 0, 0]
    assert induction[4].tolist() == [0, 0, 1, 0, 0]
    assert induction[3].tolist() == [0, 1, 0, 0, 0]
    assert same[4].tolist() == [0, 1, 0, 0, 0]
