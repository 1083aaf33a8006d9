"""Pictures show the numbers: zero is white, what is masked is grey, tokens stand at their rows."""

from __future__ import annotations

import sys

import pytest
import torch
from reference import tiny

from pellucid.base.errors import PellucidError
from pellucid.explain import Trace, causal_map, patch_map, plot_causal_map, plot_patch_map, trace
from pellucid.explain.show import fonts
from pellucid.explain.show.plot import GREY, plot_embedding, plot_positions

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'pellucid[plot]'")
matplotlib.use("Agg")
IDS = [5, 6, 7, 8, 9, 10]


@pytest.fixture
def t() -> Trace:
    return trace(tiny("llama"), None, IDS)


@pytest.fixture(autouse=True)
def _close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_the_picture_of_a_head_is_its_pattern(t: Trace) -> None:
    ax = t.plot("layers.1.pattern", head=2)
    image = ax.images[0]
    torch.testing.assert_close(torch.tensor(image.get_array()), t["layers.1.pattern"][0, 2])
    assert image.get_clim() == (0.0, 1.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(i) for i in IDS]
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(i) for i in IDS]


def test_zero_is_white_and_both_signs_reach_as_far(t: Trace) -> None:
    image = t.plot("layers.0.resid_post").images[0]
    low, high = image.get_clim()
    assert low == -high
    assert image.cmap(image.norm(0.0)) == pytest.approx((1, 1, 1, 1), abs=0.01)


def test_masked_scores_are_grey(t: Trace) -> None:
    image = t.plot("layers.0.scores", head=0).images[0]
    assert bool(image.get_array().mask[0, 1]) or image.get_array()[0, 1] != image.get_array()[0, 1]
    assert matplotlib.colors.to_hex(image.cmap.get_bad()) == GREY


def test_without_a_head_all_are_drawn(t: Trace) -> None:
    assert sum(bool(ax.images) for ax in t.plot("layers.0.pattern").flat) == 4
    assert sum(bool(ax.images) for ax in t.plot("layers.0.k").flat) == 2


def test_every_step_can_be_drawn(t: Trace) -> None:
    for path in (path for path in t if "layers.1" not in path):
        t.plot(path, head=0 if "head" in "".join(t.tap(path).axes) and "d_model" not in t.tap(path).axes else None)


@pytest.mark.parametrize("family", ["vanilla", "gpt2", "llama", "chatglm"])
def test_positions_of_every_kind_are_drawn(family: str) -> None:
    assert plot_positions(tiny(family), 16).images[0].get_size()[0] == 16


def test_the_embedding_picture_is_the_tables_rows() -> None:
    decoder = tiny("llama")
    ax = plot_embedding(decoder, None, IDS, dimensions=20)
    torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), decoder.embed.weight[IDS, :20])


def test_tokens_are_drawn_as_they_read() -> None:
    assert fonts.readable(" the\n") == "␣the⏎"
    assert fonts.readable("") == "∅"


def test_a_machine_without_a_cjk_font_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "installed", lambda: ())
    fonts._warn.cache_clear()
    with pytest.warns(UserWarning, match="fonts-noto-cjk"):
        assert fonts.families("注意力") == ["DejaVu Sans"]
    fonts.families("plain")


def test_dollars_in_tokens_are_no_formula() -> None:
    class Dollars:
        pad_token_id = None

        def __len__(self) -> int:
            return 96

        def __call__(self, texts: list[str], padding: bool) -> dict:
            return {"input_ids": [IDS], "attention_mask": [[1] * len(IDS)]}

        def decode(self, ids: list[int]) -> str:
            return "$x_$" * len(ids)

        def convert_ids_to_tokens(self, token_id: int) -> str:
            return "$x_$"

    ax = trace(tiny("llama"), Dollars(), "any").plot("layers.0.pattern", head=0)
    ax.figure.canvas.draw()
    assert ax.get_yticklabels()[0].get_text() == "$x_$"


def test_without_matplotlib_the_error_names_the_cure(t: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PellucidError, match=r"pip install 'pellucid\[plot\]'"):
        t.plot("final")


def test_a_head_that_is_not_there_is_refused(t: Trace) -> None:
    with pytest.raises(PellucidError, match="no head 4"):
        t.plot("layers.0.z", head=4)


def test_the_picture_of_a_causal_map_has_each_parts_change(t: Trace) -> None:
    causes = causal_map(t, 3, 7)
    ax = plot_causal_map(causes)
    drawn = torch.tensor(ax.images[0].get_array())
    torch.testing.assert_close(drawn[:, :4], causes.heads())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "3", "mlp"]
    mlps = [effect.change for effect in causes.effects if effect.part.kind == "mlp"]
    assert drawn[:, 4].tolist() == pytest.approx(mlps)


def test_the_picture_of_a_patch_map_has_both_texts_tokens(t: Trace) -> None:
    patched = patch_map(t, trace(t.model, None, [5, 6, 20, 8, 9, 10]), 3, 7)
    ax = plot_patch_map(patched)
    torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), patched.share)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["5", "6", "7/20", "8", "9", "10"]
    assert ax.images[0].get_clim() == (-1.0, 1.0)
