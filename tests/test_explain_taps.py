"""The description of the taps is the forward's own: names, order, weights, equations, lines of code."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from reference import MODELS, telling, tiny
from test_operations_reference import DESCRIPTIONS

import pellucid
from pellucid.config import weight_shapes
from pellucid.explain import trace
from pellucid.explain.code import line_in_c, line_in_torch
from pellucid.explain.show.mathml import mathml
from pellucid.families import FAMILIES
from pellucid.native.claims import supports
from pellucid.operations import WORDS, taps_of
from pellucid.operations.words_mixers import MIXER_WORDS
from pellucid.operations.words_ssm import SSM_WORDS

EVERY_WORD = WORDS | MIXER_WORDS | SSM_WORDS

EVERY = pytest.mark.parametrize("family", telling(list(FAMILIES)))


@EVERY
def test_every_weight_takes_part_in_a_step_and_no_other_is_named(family: str) -> None:
    config = tiny(family).config
    named = {weight.name: weight.shape for tap in taps_of(config).values() for weight in tap.weights}
    assert named == weight_shapes(config)


@EVERY
def test_a_step_is_computed_from_steps_before_it(family: str) -> None:
    order = list(taps_of(tiny(family).config))
    for tap in taps_of(tiny(family).config).values():
        assert all(order.index(source) < order.index(tap.path) for source in tap.inputs)
        assert tap.inputs or tap.name in ("embed", "pos_embed", "side_embed")


@EVERY
def test_every_step_can_be_said_in_full(family: str) -> None:
    t = trace(tiny(family), None, [5, 6, 7])
    for path in t:
        step = t.step(path)
        assert step.to_json()["mathml"].startswith("<math")
        assert re.search("[\u4e00-\u9fff]", step.title_zh + step.meaning_zh)
        assert path in str(step)


def test_every_tap_in_the_forward_is_described_and_no_other() -> None:
    source = "".join(path.read_text() for path in (Path(pellucid.__file__).parent / "model").glob("*.py"))
    tapped = set(re.findall(r'ctx\.tap\(\s*\w+, "(\w+)"', source))
    tapped |= {f"ssm_{part}{norm}" for part in ("dt_low", "b", "c") for norm in ("", "_norm")}  # made of a part's name
    assert tapped == {name for name in EVERY_WORD if not name.startswith("mixer.")}


def test_words_are_written_in_both_languages_and_plainly() -> None:
    for words in EVERY_WORD.values():
        assert not {"!", "！"} & set("".join(words))
        assert len(words.meaning) > 40
        assert len(words.meaning_zh) > 12


@pytest.mark.parametrize("model", telling())
def test_the_line_that_computes_a_step_is_found(model: str) -> None:
    for tap in taps_of(tiny(model).config).values():
        file, _, number = line_in_torch(tap).partition(":")
        text = (Path(pellucid.__file__).parent.parent / file).read_text().splitlines()[int(number) - 1]
        assert tap.operation.line(tap.name).part in text


@pytest.mark.parametrize("model", telling([model for model in MODELS if supports(tiny(model).config) is None]))
def test_the_line_of_the_native_program_is_found(model: str) -> None:
    config = tiny(model).config
    for tap in taps_of(config).values():
        file, _, number = line_in_c(tap, config).partition(":")
        text = (Path(pellucid.__file__).parent / file).read_text().splitlines()[int(number) - 1]
        assert (tap.operation.stage or ("", f'"{tap.name}"'))[1] in text


def test_lines_are_those_that_name_their_tap() -> None:
    """Of what the model puts together itself: the line of the step, not of another that looks like it."""

    def said(model: str, path: str) -> str:
        tap = taps_of(DESCRIPTIONS.get(model) or tiny(model).config)[path]
        file, _, number = line_in_torch(tap).partition(":")
        lines = (Path(pellucid.__file__).parent.parent / file).read_text().splitlines()
        return " ".join(lines[int(number) - 2 : int(number)])

    assert '"mlp_up", self.up_proj(' in said("llama", "layers.0.mlp_up")
    assert '"mlp_pre", scaled(self.gate_proj(' in said("llama", "layers.0.mlp_pre")
    assert '"mlp_pre", self.up_proj(' in said("gpt2", "layers.0.mlp_pre")
    assert "self.think(mlp_read" in said("parallel", "layers.0.resid_post")
    assert "normed(self.mlp_sum_norm" in said("llama", "layers.0.resid_post")
    assert "self.router(" in said("mixtral", "layers.0.router_logits")


def test_windows_soft_caps_and_shared_keys_are_in_the_equation() -> None:
    taps = taps_of(tiny("qwen2").config)
    assert "t - 8 < j" in taps["layers.1.scores"].latex
    assert r"\lfloor h/2 \rfloor" in taps["layers.0.z"].latex


def test_mathml_of_a_worked_example() -> None:
    element = xml.fromstring(mathml(r"y_{i} = \frac{x^2}{\sqrt{\sigma}}"))
    assert [child.tag.rpartition("}")[2] for child in element[0]] == ["msub", "mo", "mfrac"]
    assert "".join(element.itertext()) == "yi=x2σ"


def test_mathml_escapes_what_it_is_given() -> None:
    assert "<script" not in mathml(r"\text{<script>} < 1")


@pytest.mark.parametrize("broken", ["{", r"\unknown", "_", r"\frac{1}", "x^", r"\left(x"])
def test_latex_outside_the_grammar_is_an_error(broken: str) -> None:
    with pytest.raises(ValueError, match=r"grammar|closing|place|too soon"):
        mathml(broken)
