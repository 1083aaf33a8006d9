"""The page stays true however it is used: late answers, old runs, odd texts, a server that has gone."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, served
from test_explain_page_browser import listen, near, section

from pellucid.auto import open_model, tokenizer_of
from pellucid.explain.prompt import spelled
from pellucid.explain.show.server import PageServer
from pellucid.explain.show.view import KEPT_RUNS, View
from pellucid.explain.show.view_text import text_details
from pellucid.explain.subject import Subject
from pellucid.model.load import load_decoder

TEXT = "The king said to\nhis 龘 friend"

# Answers come late and out of order: the first after 120 ms, the next after none, …
LATE = """() => {
  const { source } = pellucid; let turn = 0;
  for (const name of ["fetchTile", "fetchJson"]) {
    const ask = source[name].bind(source);
    source[name] = async (...what) => {
      const wait = [120, 0, 60, 10][turn++ % 4], answer = await ask(...what);
      await new Promise((go) => setTimeout(go, wait));
      return answer;
    };
  }
}"""
QUIET = "() => !document.querySelector('[aria-busy=true]')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def subject() -> Subject:
    checkpoint = open_model("tiny")
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return Subject.of(checkpoint, decoder, tokenizer_of(checkpoint))


@pytest.fixture(scope="module")
def view(subject: Subject) -> View:
    return View(subject, TEXT)


@pytest.fixture(scope="module")
def url(view: View) -> Iterator[str]:
    with served(view) as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", locale="en-GB")
    page = context.new_page()
    complaints = listen(page)
    page.goto(f"{url}#lang=en")
    page.wait_for_selector("h1")
    yield page
    context.close()
    assert complaints == []


def test_pressed_quickly_in_a_wild_order_every_number_is_the_states(page: Any, view: View) -> None:
    page.set_viewport_size({"width": 1280, "height": 12_000})  # all of it is in sight
    record, chance = view.first.record, random.Random(5)
    for name in ("attention", "mlp", "residual", "embed", "output"):
        page.evaluate("name => pellucid.mount(name)", name)
    section(page, "attention")
    page.evaluate(LATE)
    for _ in range(16):
        key = chance.choice(["layer", "head", "pos"])
        size = {"layer": len(record.config.layers), "head": 4, "pos": view.first.length}[key]
        page.evaluate("change => pellucid.set(change)", {key: chance.randrange(size)})
        page.wait_for_timeout(chance.choice([0, 0, 5, 30]))
    state = page.evaluate("pellucid.state")
    layer, head, pos = state["layer"], state["head"], state["pos"]
    row = record[f"layers.{layer}.pattern"][0, head, pos].tolist()
    page.wait_for_function(QUIET)
    shown = page.locator(".stages [data-key]").evaluate_all(
        "all => all.map(one => [+one.dataset.key, +one.querySelector('[data-p]').dataset.p])"
    )
    assert len(shown) > 1
    assert dict(shown) == {key: pytest.approx(row[key], rel=1e-6) for key, _ in shown}
    weights = page.locator(".arcs [data-weight]").evaluate_all(
        "all => all.map(one => [one.dataset.weight, one.textContent])"
    )
    for key, text in weights:
        if text.endswith("%"):
            assert float(text.rstrip(" %")) == pytest.approx(100 * row[int(key)], abs=0.06)
    for name in page.locator("#attention .matrix[data-name^='layers.']").evaluate_all(
        "all => all.map(one => one.dataset.name)"
    ):
        assert name.startswith(f"layers.{layer}."), name
    section(page, "mlp")
    page.wait_for_function(QUIET)
    act = record[f"layers.{layer}.mlp_act"][0, pos]
    best = int(act.abs().argmax())
    assert page.locator(".neurons .bar-name").first.text_content() == f"neuron {best}"
    assert near(page.locator(".neurons .n").first.text_content(), act[best].item())
    x = record[f"layers.{layer}.resid_mid"][0, pos].double()
    eps = record.config.layers[layer].norms["mlp_norm"].eps
    assert near(page.locator('#mlp [data-stat="spread"]').text_content(), float((x.square().mean() + eps).sqrt()))
    section(page, "output")
    page.wait_for_function(QUIET)
    p = record["logits"][0, pos].softmax(-1).max().item()
    assert float(page.locator(".sampler .bars .n").first.text_content().rstrip(" %")) == pytest.approx(
        100 * p, rel=0.01
    )


def test_a_layer_and_back_leaves_the_first_ones_numbers(page: Any, view: View) -> None:
    """The answer for the other layer comes last."""
    page.set_viewport_size({"width": 1280, "height": 6000})  # all of the section is in sight
    section(page, "attention")
    page.locator(".stages [data-p]").first.wait_for()
    page.evaluate("pellucid.set({ layer: 1, head: 0 })")
    page.wait_for_timeout(200)
    page.wait_for_function(QUIET)
    page.evaluate(LATE.replace("[120, 0, 60, 10][turn++ % 4]", "String(what).includes('layers.2.') ? 250 : 0"))
    page.evaluate("pellucid.set({ layer: 2 })")
    page.evaluate("pellucid.set({ layer: 1 })")
    page.wait_for_timeout(400)
    p = float(page.locator(".stages [data-p]").first.get_attribute("data-p"))
    key = int(page.locator(".stages [data-key]").first.get_attribute("data-key"))
    assert p == pytest.approx(view.first.record["layers.1.pattern"][0, 0, -1, key].item(), rel=1e-6)


def test_a_sentence_outlives_any_number_of_what_ifs(subject: Subject) -> None:
    view = View(subject, "First")
    own = view.order("trace", {"text": "my own sentence"})["run"]
    before = view.tensor("logits", {"run": own}).clone()
    for head in range(KEPT_RUNS + 2):
        edit = {"kind": "ablate", "where": "layers.0", "head": head % 4}
        view.order("whatif", {"run": own, "edits": [edit]})
    assert len(view._runs) <= KEPT_RUNS
    assert (view.tensor("logits", {"run": own}) == before).all()
    assert view.answer("run", {"run": own})["text"] == "my own sentence"


@pytest.mark.parametrize(
    "text",
    ["W" + "o" * 400, "\n", pytest.param("Hi", marks=pytest.mark.slow), pytest.param("龘", marks=pytest.mark.slow)],
)
def test_odd_texts_are_drawn_and_nothing_is_wider_than_the_window(browser: Any, subject: Subject, text: str) -> None:
    view = View(subject, text)
    with PageServer(view) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = browser.new_page(viewport={"width": 390, "height": 800})
        complaints = listen(page)
        page.goto(f"{server.url}#lang=en&view=numbers")
        page.wait_for_selector("h1")
        page.evaluate("Object.keys(pellucid.t('nav')).forEach(name => pellucid.mount(name))")
        page.evaluate("pellucid.drawAll()")
        page.wait_for_function(QUIET)
        wide = (
            "[...document.querySelectorAll('#page *')].filter(e => e.getBoundingClientRect().right > 391 && "
            "!e.closest('.scroll-x, .matrix, svg')).slice(-3).map(e => e.outerHTML.slice(0, 90))"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, page.evaluate(wide)
        assert "[object " not in page.locator("body").text_content()
        page.close()
        server.shutdown()
        thread.join()
    assert complaints == []


def test_the_next_token_may_be_the_end_of_a_line(page: Any, view: View) -> None:
    text = view.first.summary(set())["next"][0]["text"]
    said = page.locator(".hero p").nth(1).text_content()
    assert f"“{text.replace(' ', '␣').replace(chr(10), '↵')}”" in said


def test_tokens_below_a_character_are_shown_as_the_character_with_their_bytes(page: Any, view: View) -> None:
    pieces = [token["text"] for token in view.first.summary(set())["tokens"]]
    assert [piece for piece in pieces if "龘" in piece] == ["龘‹E9 BE›", "龘‹98›"] or sum("龘" in p for p in pieces) > 1
    text = section(page, "text")
    assert "龘‹" in text.locator(".spell").text_content()
    assert "bytes" in text.locator(".story").nth(1).text_content()


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        (["a", " b"], ["a", " b"]),
        (["<0xE4BD>", "<0xA0>"], ["你‹E4 BD›", "你‹A0›"]),
        ([" <0xE9>", "<0xBE>", "<0x98>x"], [" 龘‹E9›", "龘‹BE›", "龘‹98›x"]),
        (["好", "<0xE4>"], ["好", "<0xE4>"]),  # the text ends within the character
        (["<0xA0>", "你"], ["<0xA0>", "你"]),
    ],
)
def test_a_texts_tokens_are_read_as_characters(pieces: list[str], read: list[str]) -> None:
    assert spelled(pieces) == read


def test_merges_of_bytes_read_as_text_or_as_bytes(subject: Subject) -> None:
    words = text_details(subject.tokenizer, " 你", subject.tokenizer(" 你")["input_ids"])["merges"]
    assert words is not None
    assert words[0]["stages"][0] == [" ", "‹E4›", "‹BD›", "‹A0›"]
    assert words[0]["stages"][-1] == [" 你"]


def test_models_of_other_tokens_are_compared_by_the_byte(subject: Subject, stories: Path) -> None:
    checkpoint = open_model(stories / "stories260K.bin")
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    other = Subject.of(checkpoint, decoder, tokenizer_of(checkpoint))
    text = "Once upon a time, there was a king."
    view = View(subject, text, others={"other": other})
    told = view.answer("compare", {"other": "other"})
    assert not told["same_tokens"]
    for kept, nats, bits in zip(
        (view.first.record, other.record(text)), told["nats"], told["bits_a_byte"], strict=True
    ):
        size = sum(len(kept.piece(i).encode()) for i in kept.tokens[0][1:])
        assert bits == pytest.approx(nats * (len(kept.tokens[0]) - 1) / math.log(2) / size)


def test_a_server_that_has_gone_is_said(page: Any) -> None:
    page.evaluate("() => { fetch = () => Promise.reject(new TypeError('Failed to fetch')); }")
    page.fill("#prompt textarea", "Another one")
    page.press("#prompt textarea", "Enter")
    page.wait_for_selector("#prompt-error .bad")
    assert "it has ended" in page.locator("#prompt-error").text_content()


def test_one_file_is_drawn_as_one_file(browser: Any, subject: Subject, stories: Path, tmp_path: Path) -> None:
    """A checkpoint of two files, one of one, and a model that is known from memory alone."""
    checkpoint = open_model(stories / "stories260K.bin")
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    one = Subject.of(checkpoint, decoder, tokenizer_of(checkpoint))
    memory = Subject(decoder=decoder, tokenizer=one.tokenizer, name="memory")
    size = (stories / "stories260K.bin").stat().st_size
    for which, how, whole in ((subject, "two", None), (one, "one", size), (memory, "memory", None)):
        with PageServer(View(which, "Once upon")) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            page = browser.new_page()
            page.goto(f"{server.url}#lang=en")
            page.wait_for_selector("h1")
            page.evaluate("pellucid.mount('files')")
            drawn = page.locator(".to-scale").evaluate("one => ({...one.dataset})")
            page.close()
            server.shutdown()
            thread.join()
        assert drawn["how"] == how
        if whole is not None:
            assert int(drawn["weights"]) + int(drawn["described"]) == whole


def test_a_trace_that_is_saved_has_its_models_name_and_files(tmp_path: Path) -> None:
    from pellucid import AutoModelForCausalLM, AutoTokenizer, trace

    model = AutoModelForCausalLM.from_pretrained("tiny")
    loaded = Subject.loaded(model, AutoTokenizer.from_pretrained("tiny"))
    assert loaded.name == "tiny"
    assert set(loaded.files) == {"model.safetensors", "config.json"}
    trace(model, loaded.tokenizer, "Hi").save(tmp_path / "page.html")
    assert '"name":"tiny"' in (tmp_path / "page.html").read_text()
