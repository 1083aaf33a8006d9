"""The native executor explained: its own numbers, how far each is from torch's, in the terminal, in the file and on the
page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chromium import chromium
from click.testing import CliRunner, Result
from reference import tiny

from pellucid.auto import open_model, tokenizer_of
from pellucid.base.errors import RequestError
from pellucid.cli.explain import command
from pellucid.explain.checks import check
from pellucid.explain.native import Native, NativeTrace
from pellucid.explain.show.html import write_page
from pellucid.explain.show.view import View
from pellucid.explain.subject import Subject
from pellucid.explain.trace import trace
from pellucid.families import FAMILIES
from pellucid.generate.generate import generate
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.native.claims import supports
from pellucid.native.trace import NOT_HELD

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]
PROMPT = "Once upon a time, there was a little girl named"


@pytest.fixture(scope="module")
def subject(stories: Path) -> Subject:
    """stories260K with 8 bits a weight; a row of down_proj is no whole number of blocks, so that one stays float32."""
    checkpoint = open_model(stories / "stories260K.bin")
    native = Native(checkpoint.config, checkpoint.weights, quantize="q8", threads=1, flags=("-O1",))
    return Subject.of(checkpoint, native.decoder, tokenizer_of(checkpoint), native=native)


@pytest.fixture(scope="module")
def run(subject: Subject) -> NativeTrace:
    found = subject.record(PROMPT)
    assert isinstance(found, NativeTrace)
    return found


def test_in_float32_every_step_is_torchs() -> None:
    """The family with most that is unlike the others: norms after the sum, sines for positions. All families' taps:
    test_native_conformance.
    """
    decoder = tiny("vanilla")
    its = Native(decoder.config, dict(weights_of(decoder)), threads=2, flags=("-O1",)).record(
        None, [5, 6, 7, 8, 9, 10, 11]
    )
    assert list(its) == list(its.taps)
    for path, deviation in its.deviations.items():
        assert deviation.own <= 1e-5, path
        assert deviation.so_far <= 3e-5, path
    assert check(its).ok, check(its)


def test_the_numbers_are_the_fast_paths_bit_for_bit(run: NativeTrace) -> None:
    assert torch.equal(run["logits"], run.fast_logits())
    assert {run.taps[path].name for path in run.recomputed} <= set(NOT_HELD)


def test_products_bring_the_error_and_nothing_else_does(run: NativeTrace, subject: Subject) -> None:
    """Int8 activations: a thousandth to a hundredth. Sums, norms, rotations, the softmax and float32 products:
    rounding.
    """
    assert subject.native is not None
    for path, deviation in run.deviations.items():
        tap = run.taps[path]
        rounded = tap.kind == "linear" and subject.native.formats[tap.weights[0].name] == "q8_0"
        assert (1e-3 < deviation.own < 2e-2) if rounded else deviation.own < 1e-6, path
    assert run.deviations["logits"].so_far > run.deviations["layers.0.q"].so_far


def test_torch_has_the_programs_own_weights(run: NativeTrace, subject: Subject, stories: Path) -> None:
    """The error is not the quantization's: the twin in torch computes with the rounded weights."""
    plain = trace(subject.decoder, subject.tokenizer, PROMPT)
    assert torch.equal(plain["logits"], run.exact["logits"])
    original = open_model(stories / "stories260K.bin").weights["layers.0.attention.q_proj.weight"].data
    assert not torch.equal(
        subject.decoder.get_parameter("layers.0.attention.q_proj.weight"), torch.from_numpy(original.copy())
    )


def test_the_checks_allow_rounding_and_find_a_wrong_number(run: NativeTrace, subject: Subject) -> None:
    assert check(run).ok
    broken = subject.record(PROMPT)
    broken["layers.2.v"][0, 1, 0, 2] += 1.0
    assert "layers.2.v" in {its.name for its in check(broken).failed}


def test_edits_several_texts_and_nothing_at_all_are_refused(subject: Subject) -> None:
    view = View(subject, first=subject.record(PROMPT))
    with pytest.raises(RequestError, match="takes no edits"):
        view.order("whatif", {"edits": [{"kind": "ablate", "where": "layers.1", "head": 2}]})
    with pytest.raises(RequestError, match="one text at a time"):
        subject.record([PROMPT, PROMPT])
    with pytest.raises(RequestError, match="nothing to trace"):
        subject.record([])


def test_a_text_longer_than_one_step_of_the_program_is_traced_whole(subject: Subject) -> None:
    assert subject.native is not None
    its = subject.native.record(None, list(range(3, 303)))  # 300 tokens, 256 at a time
    assert its["layers.1.q"].shape == (1, 8, 300, 8)
    assert its["logits"].shape == (1, 300, 512)
    assert its.deviations["logits"].so_far < 0.05


def test_the_page_generates_by_the_program_it_shows(subject: Subject) -> None:
    view = View(subject, first=subject.record(PROMPT))
    made: list[int] = []
    for _ in range(4):
        answer = view.order("generate", {"ids": made})
        made.append(answer["token"]["id"])
    assert subject.native is not None
    expected = generate(
        subject.native.executor, [view.first.record.tokens[0]], tokenizer=subject.tokenizer, max_new_tokens=4
    )
    assert made == list(expected[0].token_ids)
    assert answer["cache"]["length"] == view.first.length + 4


# --- the terminal
# --------------------------------------------------------------------------------------------------------


def explain(stories: Path, *arguments: str) -> Result:
    command_line = [
        "-m",
        str(stories / "stories260K.bin"),
        "-t",
        "1",
        "--executor",
        "native",
        "--quantize",
        "q8",
        *arguments,
    ]
    result = CliRunner().invoke(command, command_line, env={"COLUMNS": "80", "NO_COLOR": "1"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_terminal_says_whose_numbers_they_are_and_how_far_off(stories: Path) -> None:
    output = explain(stories, PROMPT).stdout
    assert all(len(line) <= 80 for line in output.splitlines())
    for expected in (
        "the native executor's (31 × q8_0",
        "so far 4",
        "Looked up or computed for show: embed, scores, pattern",
        "KL(torch ‖ native)",
        "all hold",
    ):
        assert expected in " ".join(output.split()), expected
    assert "own" in explain(stories, PROMPT, "--layer", "2").stdout
    step = explain(stories, PROMPT, "--step", "layers.2.v").stdout
    assert "off torch" in step
    assert re.search(r"native/c/\S+\.c\.in:\d+", step)
    assert "torch's float32 run has" in explain(stories, PROMPT, "--step", "layers.2.v", "--cell", "0,1,3").stdout


def test_the_terminal_as_json(stories: Path) -> None:
    its = json.loads(explain(stories, PROMPT, "--json").stdout)
    assert its["executor"] == "native"
    assert {"name", "own", "so_far"} == set(its["deviations"][0])
    assert json.loads(explain(stories, PROMPT, "--step", "layers.2.v", "--json").stdout)["deviation"]["own"] > 1e-3


@pytest.mark.parametrize("flags", [("--dtype", "float32"), ("--device", "cuda")])
def test_flags_that_are_torchs_are_refused(flags: tuple[str, ...], stories: Path) -> None:
    with pytest.raises(RequestError, match="are torch's"):
        explain(stories, PROMPT, *flags)


# --- the page
# ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("width", "lang", "scheme"), [(1280, "en", "light"), (360, "zh", "dark")])
def test_the_file_says_first_how_far_the_numbers_are_from_torchs(
    browser: Any, run: NativeTrace, subject: Subject, tmp_path: Path, width: int, lang: str, scheme: str
) -> None:
    write_page(run, tmp_path / "page.html", subject=subject)
    locale = {"en": "en-GB", "zh": "zh-CN"}[lang]
    page = browser.new_context(
        viewport={"width": width, "height": 800}, locale=locale, color_scheme=scheme, reduced_motion="reduce"
    ).new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "page.html").as_uri())
    assert {"en": "native executor", "zh": "原生执行器"}[lang] in page.locator("#whose").inner_text()
    page.locator("#precision").scroll_into_view_if_needed()
    said = page.locator(".precision-said").inner_text()
    assert str(run.same_choice) in said
    assert f"{run.deviations['logits'].so_far:.2%}".rstrip("%") in said
    assert page.locator("figure[data-precision] .matrix-canvas").count() == 2
    page.evaluate("document.querySelector('[data-section=whatif]').scrollIntoView()")
    page.locator("#whatif .placeholder").first.wait_for()
    assert page.locator("#whatif button").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not complaints
    page.context.close()


def test_a_page_by_torch_has_no_such_section(subject: Subject, tmp_path: Path) -> None:
    torch_subject = Subject(decoder=subject.decoder, tokenizer=subject.tokenizer, name="torch")
    view = View(torch_subject, PROMPT)
    assert view.answer("model", {})["native"] is None
    assert view.answer("precision", {}) is None


def test_a_model_that_native_lacks_says_so(tmp_path: Path) -> None:
    """Where the program cannot be written, nothing is quietly run by torch instead."""
    lacking = [family for family in FAMILIES if supports(tiny(family).config)]
    if not lacking:
        pytest.skip("the native executor runs every family")
    decoder = tiny(lacking[0])
    with pytest.raises(Exception, match="native executor does not run"):
        Native(decoder.config, dict(weights_of(decoder)))
