"""Causes on the page: each number drawn is that of a run of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, served
from test_explain_page_browser import listen

from pellucid.auto import open_model, tokenizer_of
from pellucid.explain import causal_map, habits_of, head_card, lens, patch_map, trace
from pellucid.explain.questions.causal import dose
from pellucid.explain.questions.patching import movers
from pellucid.explain.show.html import write_page
from pellucid.explain.show.view import View
from pellucid.explain.subject import Subject
from pellucid.model.load import load_decoder

TEXT = "My lord, the king is"
DONE = "name => document.querySelector(`#${name} [role=status]`)?.textContent.match(/Press a cell|点一格/)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def view() -> View:
    checkpoint = open_model("tiny")
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return View(Subject.of(checkpoint, decoder, tokenizer_of(checkpoint)), TEXT)


@pytest.fixture(scope="module")
def url(view: View) -> Iterator[str]:
    with served(view) as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 1400}, reduced_motion="reduce", locale="en-GB")
    page = context.new_page()
    complaints = listen(page)
    page.goto(f"{url}#lang=en")
    page.wait_for_selector("h1")
    yield page
    assert "[object " not in page.locator("body").text_content()
    context.close()
    assert [text for text in complaints if "400" not in text and "not one token" not in text] == []


def shown(page: Any, section: str) -> Any:
    page.evaluate("name => { pellucid.mount(name); pellucid.go(name); }", section)
    page.wait_for_function(DONE, arg=section)
    return page.locator(f"#{section}")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("+", "").split()[0].rstrip("%"))


def test_every_cell_of_the_causal_map_is_a_run_without_that_part(page: Any, view: View) -> None:
    page.evaluate("pellucid.set({ a: 'king', b: 'good' })")
    causes = shown(page, "causes")
    told = causal_map(view.first.record, "king", "good")
    assert float(causes.locator(".contrast-said").get_attribute("data-gap")) == pytest.approx(told.gap, abs=1e-4)
    names = causes.locator(".bars .bar-name").all_text_contents()
    values = [number(text) for text in causes.locator(".bars .n").all_text_contents()]
    ranked = told.ranked()[: len(names)]
    assert len(names) == 10
    for name, value, effect in zip(names, values, ranked, strict=True):
        wanted = f"layer {effect.part.layer}, " + ("MLP" if effect.part.head is None else f"head {effect.part.head}")
        assert name == wanted
        assert value == pytest.approx(effect.change, rel=6e-3, abs=1e-3)
    layers, heads = told.heads().shape
    matrix = causes.locator("[data-causes=effect] .matrix")
    assert matrix.get_attribute("aria-label") == f"causes, {layers} × {heads + 1}"


def test_the_slider_goes_from_the_run_as_it_is_to_the_part_silenced(page: Any, view: View) -> None:
    page.evaluate("pellucid.set({ a: 'king', b: 'good' })")
    causes = shown(page, "causes")
    told = causal_map(view.first.record, "king", "good")
    causes.locator(".bars .bar-name").first.click()
    strongest = told.ranked()[0]
    key = strongest.part.path + ("" if strongest.part.head is None else f":{strongest.part.head}")
    page.wait_for_function("key => document.querySelector('.causes-detail .part-link')?.dataset.part === key", arg=key)
    curve = dose(view.first.record, told.contrast, strongest.part, [i / 8 for i in range(9)])
    drawn = causes.locator(".dose [data-gap]").evaluate_all("all => all.map(one => +one.dataset.gap)")
    assert drawn == pytest.approx(curve, abs=1e-4)
    said = causes.locator(".dose-said")
    assert float(said.get_attribute("data-gap")) == pytest.approx(told.gap, abs=1e-4)
    slider = causes.locator(".causes-detail input[type=range]")
    slider.focus()
    slider.press("Home")
    assert float(said.get_attribute("data-gap")) == pytest.approx(told.gap + strongest.change, abs=1e-3)
    assert f"part={key}".replace(":", "%3A") in page.url
    slider.press("ArrowRight")
    assert float(said.get_attribute("data-gap")) == pytest.approx(curve[1], abs=1e-4)


def test_an_answer_that_is_no_token_is_said_and_any_token_can_be_asked(page: Any) -> None:
    causes = shown(page, "causes")
    causes.locator("[data-answer=b]").fill("kingkingking")
    causes.locator("[data-answer=b]").press("Enter")
    causes.locator(".bad").wait_for()
    assert "is not one token" in causes.locator(".bad").text_content()
    causes.locator("[data-answer=b]").fill("with")
    causes.locator("[data-answer=b]").press("Enter")
    page.wait_for_function("() => document.querySelector('.contrast-said')?.textContent.includes('with')")
    page.wait_for_function(DONE, arg="causes")


def test_the_fact_map_is_that_of_patched_runs(page: Any, view: View) -> None:
    page.evaluate("pellucid.set({ other: 'My lord, the queen is' })")
    fact = shown(page, "fact")
    other = trace(view.subject.decoder, view.subject.tokenizer, "My lord, the queen is")
    assert len(other.tokens[0]) == view.first.length
    told = patch_map(view.first.record, other)
    rows, cols = told.share.shape[0], told.share.shape[1] - told.first
    label = fact.locator("[data-fact=map] .matrix").get_attribute("aria-label")
    assert label == f"fact, {rows} × {cols}"
    # the cell of the changed word before the first layer: all of it
    matrix = fact.locator("[data-fact=map] .matrix")
    matrix.focus()
    for key in ("ArrowDown", *["ArrowDown"] * (rows - 1)):
        matrix.press(key)
    page.wait_for_selector(".tip:not([hidden]) .tip-value")
    value = number(page.locator(".tip-value").text_content())
    assert value == pytest.approx(100 * told.share[0, told.first].item(), abs=0.6)
    matrix.press("ArrowUp")
    page.wait_for_timeout(200)
    value = number(page.locator(".tip-value").text_content())
    assert value == pytest.approx(100 * told.share[1, told.first].item(), abs=0.6)
    matrix.press("Enter")  # before layer 1: layer 0 brought it there
    page.wait_for_selector(".fact-mover .movers li")
    made = movers(view.first.record, other, told.contrast, 0, told.first)
    shares = fact.locator(".movers li").evaluate_all("all => all.map(one => +one.dataset.share)")
    assert shares == pytest.approx([mover.share for mover in made[:3]], abs=1e-4)


def test_a_pair_is_proposed_and_its_answers_differ(page: Any, view: View) -> None:
    fact = shown(page, "fact")
    lines = fact.locator(".pair-line")
    assert lines.count() == 2
    assert lines.nth(0).locator(".chip.here").count() == 1
    answers = [lines.nth(i).locator(".pair-answer b").text_content() for i in range(2)]
    assert answers[0] != answers[1]
    pair = view.order("pair", {"run": view.first.name})
    assert answers == [pair[f"{which}_answers"][key]["text"].replace(" ", "␣").replace("\n", "↵")
                       for which, key in (("source", "a"), ("target", "b"))]  # fmt: skip


@pytest.mark.parametrize("lang", ["zh", pytest.param("en", marks=pytest.mark.slow)])
def test_causes_fit_a_phone(browser: Any, url: str, lang: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    complaints = listen(page)
    page.goto(f"{url}#lang={lang}")
    page.wait_for_selector("h1")
    for name, wanted in (("fact", ".movers li"), ("causes", ".causes-detail input[type=range]")):
        page.evaluate("name => { pellucid.mount(name); pellucid.go(name); }", name)
        page.wait_for_selector(f"#{name} .matrix")
        page.wait_for_function(DONE, arg=name)
        page.evaluate(
            "name => document.querySelector(`#${name} .causes-detail, #${name} .fact-mover`).scrollIntoView()", name
        )
        page.wait_for_selector(wanted)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
    assert complaints == []


def test_a_head_is_told_in_words_that_are_its_cards(page: Any, view: View) -> None:
    record = view.first.record
    page.evaluate("pellucid.mount('attention'); pellucid.set({ layer: 2, head: 1 }); pellucid.go('attention')")
    page.locator(".in-words").scroll_into_view_if_needed()
    page.wait_for_selector('.in-words .card-said[data-head="2:1"]')
    card = head_card(record, 2, 1, habits=habits_of(record.model, record.prompt.tokenizer))
    said = page.locator(".in-words .card-said").text_content()
    for token, _ in [*card.promotes(4), *card.suppresses(4)]:
        assert f"“{record.piece(token).replace(' ', '␣').replace(chr(10), '↵')}”" in said
    habit = page.locator(".in-words .soft").text_content()
    assert ("no single habit" in habit) == (card.habit is None)


def test_the_lens_says_how_far_each_guess_is_from_the_answer(page: Any, view: View) -> None:
    page.evaluate("pellucid.mount('residual'); pellucid.go('residual')")
    page.wait_for_selector(".lens-table [data-kl]")
    told = lens(view.first.record, positions=[-1])
    for name in ("rank", "kl", "entropy"):
        drawn = page.locator(f".lens-table [data-{name}]").evaluate_all(
            "(all, name) => all.map(one => +one.dataset[name])", name
        )
        assert drawn[::-1] == pytest.approx(getattr(told, name)[:, 0, 0].tolist(), abs=1e-4)


def test_the_offline_file_has_the_causes_and_every_layers_attention(browser: Any, view: View, tmp_path: Path) -> None:
    record = view.first.record
    write_page(record, tmp_path / "page.html", subject=view.subject, max_bytes=1_600_000)
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    complaints = listen(page)
    page.goto((tmp_path / "page.html").as_uri() + "#lang=en")
    page.wait_for_selector("h1")
    shown(page, "fact")
    page.wait_for_selector(".movers li")
    causes = shown(page, "causes")
    gap = causal_map(record).gap
    assert float(causes.locator(".contrast-said").get_attribute("data-gap")) == pytest.approx(gap, abs=1e-4)
    causes.locator(".causes-detail").scroll_into_view_if_needed()
    page.wait_for_selector(".causes-detail input[type=range]")
    tile = "([layer, head]) => pellucid.source.tile(`layers.${layer}.pattern`, {at: [0, head]}).then(t => [...t.data])"
    for layer in range(record.config.num_layers):
        drawn = page.evaluate(tile, [layer, 1])
        assert drawn == pytest.approx(record[f"layers.{layer}.pattern"][0, 1].flatten().tolist(), abs=1 / 500)
    page.close()
    assert complaints == []
