"""Edits change exactly what they name, and what follows from it."""

from __future__ import annotations

import pytest
import torch
from reference import telling, tiny

from pellucid.base.errors import RequestError
from pellucid.explain import Ablate, Edit, Patch, SwapToken, Trace, compare, trace
from pellucid.families import FAMILIES
from pellucid.operations import taps_of

EVERY = pytest.mark.parametrize("family", telling(list(FAMILIES)))
IDS = [5, 6, 7, 8, 9, 10, 11, 12]
OTHER = [5, 6, 7, 20, 21, 10, 11, 12]


def assert_same_before(edited: Trace, plain: Trace, path: str) -> None:
    """Every step before ``path`` is bit for bit the same, and ``path`` is not."""
    for name in plain:
        if name == path:
            assert not torch.equal(edited[name], plain[name])
            return
        assert torch.equal(edited[name], plain[name]), name


def headed(family: str) -> str:
    """The last step of a family that has heads: attention's, or a state-space mixer's."""
    taps = taps_of(tiny(family).config)
    steps = [path for path, tap in taps.items() if tap.axes[1] == "head" and tap.operation.part == "head"]
    return steps[-1] if steps else pytest.skip("its mixers have channels and no heads")


@EVERY
def test_an_ablated_heads_z_is_zero_and_everything_before_it_unchanged(family: str) -> None:
    decoder, path = tiny(family), headed(family)
    where = path.removesuffix(".z")  # a layer's heads are attention's; others are named
    plain, edited = trace(decoder, None, IDS), trace(decoder, None, IDS, edits=[Ablate(where, head=2)])
    assert (edited[path][:, 2] == 0).all()
    for head in (0, 1, 3):
        assert torch.equal(edited[path][:, head], plain[path][:, head])
    assert_same_before(edited, plain, path)
    assert compare(plain, edited).first_change == path
    assert edited.edited == {path}


@EVERY
def test_an_edited_run_still_holds_its_identities(family: str) -> None:
    config, edits, path = tiny(family).config, [], headed(family)
    for i, layer in enumerate(config.layers):
        if layer.mlp:
            edits = [Ablate(f"layers.{i}", expert=3) if layer.experts else Ablate(f"layers.{i}", neuron=3)]
    edited = trace(tiny(family), None, IDS, edits=[Ablate(path.removesuffix(".z"), head=1), *edits])
    assert edited.checks.ok, edited.checks.failed
    checked = {check.name for check in edited.checks}
    assert path not in checked
    assert f"{path.rpartition('.')[0]}.attn_out" in checked
    assert any(check.identity == "fast" for check in edited.checks)


def test_an_ablated_expert_adds_nothing_and_the_others_keep_their_weights() -> None:
    decoder, plain = tiny("mixtral"), trace(tiny("mixtral"), None, IDS)
    expert = int(plain["layers.0.experts"][0].sum(0).argmax())
    edited = trace(decoder, None, IDS, edits=[Ablate("layers.0", expert=expert)])
    expected = plain["layers.0.experts"].clone()
    expected[..., expert] = 0
    assert torch.equal(edited["layers.0.experts"], expected)
    chosen = plain["layers.0.experts"][0, :, expert] > 0
    moved = (edited["layers.0.mlp_out"] - plain["layers.0.mlp_out"])[0].abs().amax(-1) > 1e-6
    assert torch.equal(moved, chosen)
    assert chosen.any()
    assert not chosen.all()


def test_an_edit_of_the_pattern_has_no_fast_path_to_compare_with() -> None:
    edited = trace(tiny("llama"), None, IDS, edits=[Ablate("layers.0.pattern", head=0)])
    assert not any(check.identity == "fast" for check in edited.checks)
    assert (edited["layers.0.z"][:, 0] == 0).all()


@EVERY
def test_patching_the_whole_stream_gives_the_other_prompts_prediction(family: str) -> None:
    decoder = tiny(family)
    other = trace(decoder, None, OTHER)
    stream = "layers.0.resid_post"
    read = {source for tap in other.taps.values() if tap.layer for source in tap.inputs}  # by later layers: the stream,
    read = {source for source in read if not other.taps[source].layer} | {stream}  # lent keys, vectors beside it
    patched = trace(decoder, None, IDS, edits=[Patch(path, other) for path in other.taps if path in read])
    assert torch.equal(patched["logits"], other["logits"])


def test_patching_some_positions_leaves_the_others() -> None:
    decoder = tiny("llama")
    plain, other = trace(decoder, None, IDS), trace(decoder, None, OTHER)
    patched = trace(decoder, None, IDS, edits=[Patch("layers.0.resid_post", other, positions=[3, -1])])
    value = patched["layers.0.resid_post"]
    assert torch.equal(value[:, [3, 7]], other["layers.0.resid_post"][:, [3, 7]])
    assert torch.equal(value[:, [0, 1, 2, 4, 5, 6]], plain["layers.0.resid_post"][:, [0, 1, 2, 4, 5, 6]])


def test_patching_takes_positions_of_a_text_of_another_length() -> None:
    decoder = tiny("llama")
    short = trace(decoder, None, OTHER[:4])
    patched = trace(decoder, None, IDS, edits=[Patch("layers.1.z", short, positions=[6, 7], source_positions=[2, 3])])
    assert torch.equal(patched["layers.1.z"][:, :, [6, 7]], short["layers.1.z"][:, :, [2, 3]])


@EVERY
def test_a_swapped_token_is_the_other_prompt(family: str) -> None:
    decoder = tiny(family)
    swapped = trace(decoder, None, IDS, edits=[SwapToken(3, 20), SwapToken(-4, 21)])
    assert torch.equal(swapped["logits"], trace(decoder, None, OTHER)["logits"])


def test_any_function_can_edit() -> None:
    plain = trace(tiny("gpt2"), None, IDS)
    doubled = trace(tiny("gpt2"), None, IDS, edits=[Edit("layers.0.mlp_out", lambda value, path: 2 * value)])
    assert torch.equal(doubled["layers.0.mlp_out"], 2 * plain["layers.0.mlp_out"])


def test_two_edits_of_one_step_apply_in_order() -> None:
    edits = [Ablate("layers.0.z", head=1), Edit("layers.0.z", lambda value, path: value + 1)]
    assert (trace(tiny("llama"), None, IDS, edits=edits)["layers.0.z"][:, 1] == 1).all()


def test_an_edit_works_where_its_step_is_not_recorded() -> None:
    decoder = tiny("llama")
    whole = trace(decoder, None, IDS, edits=[Ablate("layers.0", head=0)])
    assert torch.equal(
        trace(decoder, None, IDS, steps=["logits"], edits=[Ablate("layers.0", head=0)])["logits"], whole["logits"]
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: Ablate("layers.0", head=9), "head 9 is out of range"),
        (lambda: Ablate("layers.9", head=0), "no step 'layers.9.z'"),
        (lambda: Ablate("layers.0"), "says not what to ablate"),
        (lambda: Ablate("layers.0", head=0, positions=[8]), "position 8 is out of range"),
        (lambda: Edit("layers.0.z", lambda value, path: value[:, :1]), "must keep the shape"),
        (lambda: SwapToken(8, 3), "no such position"),
        (lambda: Patch("layers.0.z", {}), "did not record"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(edit, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        trace(tiny("llama"), None, IDS, edits=[edit()])
