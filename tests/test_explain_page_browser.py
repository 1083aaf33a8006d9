"""The page in a real browser: every section is clicked, and what it says equals the tensors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
import torch
from chromium import chromium, served
from reference import telling, tiny
from test_operations_reference import DESCRIPTIONS, random_decoder

from pellucid.auto import open_model, tokenizer_of
from pellucid.explain.show.html import write_page
from pellucid.explain.show.server import PageServer
from pellucid.explain.show.view import View
from pellucid.explain.subject import Subject
from pellucid.explain.trace import trace
from pellucid.families import FAMILIES
from pellucid.model.load import load_decoder
from pellucid.operations.norm import Norm

TEXT = "Once upon a time, there was a little girl named Lily."
SECTIONS = (
    "fact",
    "files",
    "text",
    "embed",
    "model",
    "cell",
    "attention",
    "mlp",
    "residual",
    "causes",
    "output",
    "decode",
    "whatif",
    "training",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def subject(stories: Path) -> Subject:
    checkpoint = open_model(stories / "stories260K.bin")
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return Subject.of(checkpoint, decoder, tokenizer_of(checkpoint))


@pytest.fixture(scope="module")
def view(subject: Subject) -> View:
    return View(subject, TEXT, others={"a twin": subject})


@pytest.fixture(scope="module")
def url(view: View) -> Iterator[str]:
    with served(view) as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """A fresh page on the live model; it fails the test if the page ever complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", locale="en-GB")
    page = context.new_page()
    complaints = listen(page)
    page.goto(url)
    page.wait_for_selector("h1")
    yield page
    assert "[object " not in page.locator("body").text_content()  # a list of nodes that was written as text
    context.close()
    assert complaints == []


def listen(page: Any) -> list[str]:
    """Errors, and requests that leave the page's own origin."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if not request.url.startswith(("http://127.0.0.1", "file:", "data:"))
            else None
        ),
    )
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    return complaints


def section(page: Any, name: str) -> Any:
    """Goes there by the map at the side."""
    page.click(f'#map-nav a[data-goto="{name}"]')
    found = page.locator(f"#{name}")
    found.wait_for()
    return found


def said(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("−", "-").replace("\u202f", "").replace(" ", "").replace("=", "").rstrip("%"))


def near(text: str, value: float) -> bool:
    """As many figures as are written are right."""
    return said(text) == pytest.approx(value, rel=2e-3, abs=1e-6)


def open_cell(page: Any, name: str, index: tuple[int, ...]) -> Any:
    page.evaluate("([name, index]) => pellucid.ask(name, index)", [name, list(index)])
    page.wait_for_function(
        "key => document.querySelector('#why .why-name')?.textContent === key",
        arg=f"{name}[{', '.join(map(str, index))}]",
    )
    page.wait_for_selector("#why .why-value")
    return page.locator("#why")


def test_files_treemap_leads_to_a_tensor_and_its_histogram(page: Any, view: View) -> None:
    files = section(page, "files")
    assert said(files.locator('[data-size="d_model"]').text_content()) == view.subject.decoder.config.d_model
    files.locator('.treemap [data-part="mlp"]').click()
    files.locator('.treemap [data-part="mlp.up_proj.weight"]').click()
    files.locator('.treemap [data-part="layers.3.mlp.up_proj.weight"]').click()
    files.locator('.weight[data-weight="layers.3.mlp.up_proj.weight"]').wait_for()
    weight = view.weight("layers.3.mlp.up_proj.weight")
    for stat, value in (("min", weight.min()), ("max", weight.max()), ("mean", weight.mean())):
        assert near(files.locator(f'[data-stat="{stat}"]').text_content(), float(value))


def test_text_shows_ids_and_plays_the_merges(page: Any, view: View) -> None:
    text = section(page, "text")
    ids = text.locator(".thread .chip small").all_text_contents()
    assert [int(i) for i in ids] == view.first.record.tokens[0][-10:]
    text.locator(".merges button").first.click()
    slider = text.locator(".merges input[type=range]")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    assert text.locator(".merges .piece").all_text_contents() == ["␣Once"]
    assert text.locator(".batch tr").count() == 4


def test_embedding_looks_up_the_tokens_row(page: Any, view: View) -> None:
    embed = section(page, "embed")
    page.locator("#strip .chip").nth(2).click()
    assert str(view.first.record.tokens[0][2]) in embed.locator(".lookup figcaption").text_content()
    why = open_cell(page, "embed", (0, 2, 5))
    assert near(why.locator(".why-value").text_content(), view.first.record["embed"][0, 2, 5].item())
    assert "embed.weight" in why.locator(".cell-link").first.text_content()


def test_rotary_turns_the_arrow_as_the_model_did(page: Any, view: View) -> None:
    embed = section(page, "embed")
    embed.locator(".rotary input").first.press("End")
    rope = view.subject.decoder.config.layers[0].mixer.rope
    assert rope
    first = rope.dim // 2 - 1 if rope.layout == "half" else rope.dim - 2
    value = view.first.record["layers.2.q_rot"][0, 0, -1, first].item()
    page.wait_for_function(
        "x => document.querySelector('.rotary [role=status]').textContent.replaceAll('−', '-').includes(x)",
        arg=f"({value:.4g},",
    )


def test_the_map_leads_to_attention(page: Any) -> None:
    model = section(page, "model")
    model.locator('[role="link"][aria-label="attention"]').click()
    page.wait_for_function("() => pellucid.state.at === 'attention'")
    assert page.evaluate("pellucid.state.step") == "layers.2.pattern"


def test_a_cell_is_asked_by_a_click_and_walked_back_to_the_letters(page: Any, view: View) -> None:
    """From a logit, term by term, to a token of the sentence."""
    last, best = view.first.length - 1, int(view.first.record["logits"][0, -1].argmax())
    why = open_cell(page, "logits", (0, last, best))
    assert near(why.locator(".why-value").text_content(), view.first.record["logits"][0, -1, best].item())
    for wanted in ("final", "layers.4.resid_post"):
        why.locator(f'.cell-link.step:has-text("{wanted}[")').first.click()
        page.wait_for_function(
            "name => document.querySelector('#why .why-name').textContent.startsWith(name)", arg=wanted
        )
    for _ in range(3 * view.subject.decoder.config.num_layers + 1):
        name = why.locator(".why-name").text_content()
        if name.startswith("embed["):
            break
        stream = why.locator(".cell-link.step").filter(
            has_text="embed[" if name.startswith("layers.0.resid_pre") else "resid_"
        )
        stream.first.click()
        page.wait_for_function("name => document.querySelector('#why .why-name').textContent !== name", arg=name)
    assert view.first.record.piece(view.first.record.tokens[0][-1]) in why.locator(".leads").text_content()
    assert why.locator(".trail button").count() >= 5


def test_terms_and_the_rest_sum_to_the_value(page: Any, view: View) -> None:
    why = open_cell(page, "layers.1.mlp_out", (0, 4, 7))
    terms = [float(term) for term in why.locator("[data-term]").evaluate_all("all => all.map(one => one.dataset.term)")]
    rest = float(why.locator("[data-rest]").get_attribute("data-rest"))
    assert terms == sorted(terms, key=lambda term: -abs(term))
    assert sum(terms) + rest == pytest.approx(view.first.record["layers.1.mlp_out"][0, 4, 7].item(), abs=1e-5)


def test_arrow_keys_move_between_cells_and_the_address_follows(page: Any, view: View) -> None:
    section(page, "cell")
    matrix = page.locator("#cell .matrix")
    matrix.focus()
    matrix.press("ArrowDown")
    matrix.press("Enter")
    page.wait_for_selector("#why .why-value")
    before = page.evaluate("pellucid.state.cell")
    matrix.press("ArrowRight")
    page.wait_for_function("cell => pellucid.state.cell !== cell", arg=before)
    index = [int(i) for i in page.evaluate("pellucid.state.cell").split(",")]
    assert index == [int(i) + (axis == 3) for axis, i in enumerate(before.split(","))]
    name = page.evaluate("pellucid.state.step")
    key = f"{name}[{', '.join(map(str, index))}]"
    page.wait_for_function(
        "key => document.querySelector('#why .why-name').textContent === key "
        "&& document.querySelector('#why .why-value')",
        arg=key,
    )
    assert float(page.locator("#why .why-value").get_attribute("data-value")) == pytest.approx(
        view.first.record[name][tuple(index)].item(), rel=1e-6
    )
    assert f"cell={','.join(map(str, index))}".replace(",", "%2C") in page.url


def test_a_click_on_a_matrix_asks_for_that_cell(page: Any, view: View) -> None:
    section(page, "cell")
    canvas = page.locator("#cell .matrix canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    box = page.evaluate(
        "() => { const at = document.querySelector('#cell .matrix canvas').getBoundingClientRect(); "
        "return [at.width, at.height]; }"
    )
    canvas.click(position={"x": box[0] - 4, "y": box[1] - 4})
    page.wait_for_selector("#why .why-value")
    value = view.first.record["layers.2.q"][0, 0, -1, -1].item()
    assert float(page.locator("#why .why-value").get_attribute("data-value")) == pytest.approx(value, rel=1e-6)


def test_cells_can_be_pinned(page: Any) -> None:
    why = open_cell(page, "layers.0.q", (0, 0, 1, 1))
    why.locator('button[aria-label="Keep this cell in view"]').click()
    open_cell(page, "layers.0.k", (0, 0, 1, 1))
    assert why.locator(".pinned tr").count() == 1
    why.locator(".trail-pin").click()
    page.wait_for_function("() => document.querySelector('#why .why-name').textContent.startsWith('layers.0.q')")


def test_attention_shows_the_weights_of_the_chosen_head_and_query(page: Any, view: View) -> None:
    attention = section(page, "attention")
    page.locator("#strip .chip").nth(6).click()
    attention.locator('.heads button[data-head="3"]').click()
    row = view.first.record["layers.2.pattern"][0, 3, 6]
    attention.locator(".stages").scroll_into_view_if_needed()
    attention.locator('.stages [data-key="7"]').wait_for()
    page.wait_for_function(
        "p => Math.abs(document.querySelector('.stages [data-key=\"0\"] [data-p]')?.dataset.p - p) < 1e-6",
        arg=row[0].item(),
    )
    for key in range(7):
        p = float(attention.locator(f'.stages [data-key="{key}"] [data-p]').get_attribute("data-p"))
        assert p == pytest.approx(row[key].item(), rel=1e-6)
    cells = attention.locator('.stages [data-key="7"] td').all_text_contents()
    assert cells[3] == "−∞"
    assert said(cells[4]) == 0


def test_norm_shows_its_own_spread_and_neurons_their_activation(page: Any, view: View) -> None:
    mlp, its = section(page, "mlp"), view.first.record
    x, eps = its["layers.2.resid_mid"][0, -1].double(), view.subject.decoder.config.layers[2].norms["mlp_norm"].eps
    assert near(mlp.locator('[data-stat="spread"]').text_content(), float((x.square().mean() + eps).sqrt()))
    mlp.get_by_role("button", name="before attention").click()
    x = its["layers.2.resid_pre"][0, -1].double()
    page.wait_for_function(
        "old => document.querySelector('#mlp [data-stat=spread]').textContent !== old", arg=f"{float(x.mean()):.5g}"
    )
    page.wait_for_timeout(100)
    assert near(mlp.locator('[data-stat="spread"]').text_content(), float((x.square().mean() + eps).sqrt()))
    act = its["layers.2.mlp_act"][0, -1]
    best = int(act.abs().argmax())
    assert mlp.locator(".neurons .bar-name").first.text_content() == f"neuron {best}"
    mlp.locator(".neurons .bar-name").first.click()
    page.wait_for_selector("#why .why-value")
    assert float(page.locator("#why .why-value").get_attribute("data-value")) == pytest.approx(
        act[best].item(), rel=1e-6
    )


def test_the_lens_ends_with_what_the_model_says_and_parts_add_up(page: Any, view: View) -> None:
    residual = section(page, "residual")
    its = view.first.record
    residual.locator(".lens-table tr").nth(1).wait_for()
    p = float(residual.locator(".lens-table tr").nth(1).locator("button").last.get_attribute("data-p"))
    assert p == pytest.approx(its["logits"][0, -1].softmax(-1).max().item(), rel=1e-4)
    residual.locator(".attribution .bars").wait_for()
    values = [said(text) for text in residual.locator(".attribution .bars .n").all_text_contents()]
    assert sum(values) == pytest.approx(its["logits"][0, -1].max().item(), abs=0.02)
    residual.locator(".attribution button", has_text="by head").click()
    residual.locator(".attribution .bar-name", has_text="head").first.wait_for()


def test_sliders_sharpen_and_cut_the_distribution(page: Any, view: View) -> None:
    output, logits = section(page, "output"), view.first.record["logits"][0, -1]
    first = lambda: said(output.locator(".sampler .bars .n").first.text_content())  # noqa: E731
    output.locator(".sampler .bars").wait_for()
    assert first() == pytest.approx(100 * logits.softmax(-1).max().item(), abs=0.06)
    knobs = output.locator(".sampler input")
    for _ in range(10):
        knobs.nth(0).press("ArrowRight")  # temperature 1.5
    assert first() == pytest.approx(100 * (logits / 1.5).softmax(-1).max().item(), abs=0.06)
    for _ in range(3):
        knobs.nth(1).press("ArrowRight")  # top-k 3
    kept = (logits / 1.5).topk(3).values.softmax(-1)
    assert first() == pytest.approx(100 * kept.max().item(), abs=0.06)
    assert output.locator(".sampler .bar i.faint").count() > 0
    output.locator("text=Draw a token").click()
    drawn = output.locator(".answer .new").text_content()
    assert drawn in [view.first.record.piece(int(i)).replace(" ", "␣") for i in logits.topk(3).indices]


def test_surprise_is_the_cross_entropy_of_the_text_and_of_ones_own(page: Any, view: View) -> None:
    output = section(page, "output")
    output.locator(".surprise .chip").first.wait_for()
    shown = [
        float(x)
        for x in output.locator(".surprise [data-nats]").evaluate_all("all => all.map(one => one.dataset.nats)")
    ]
    ids = torch.tensor(view.first.record.tokens[0])
    expected = torch.nn.functional.cross_entropy(view.first.record["logits"][0, :-1], ids[1:], reduction="none")
    assert shown == pytest.approx(expected.tolist(), abs=1e-4)
    output.locator(".target input").fill(" She was happy.")
    output.locator(".target button").click()
    output.locator(".target-result .chip").first.wait_for()
    added = view.subject.tokenizer(" She was happy.", add_special_tokens=False)["input_ids"]
    assert output.locator(".target-result .chip").count() == len(added)


def test_decoding_grows_the_sentence_and_its_cache(page: Any, view: View) -> None:
    decode = section(page, "decode")
    decode.locator('[data-more="8"]').click()
    page.wait_for_function("() => document.querySelectorAll('#decode .answer .new').length === 8")
    made = [int(i) for i in decode.locator(".answer .new").evaluate_all("all => all.map(one => one.dataset.id)")]
    logits = trace(view.subject.decoder, None, view.first.record.tokens[0] + made, steps=["logits"])["logits"][0]
    assert made == logits[-9:-1].argmax(-1).tolist()
    assert f"{view.first.length + 8} tokens" in decode.locator(".kv-cache figcaption").text_content()
    decode.locator("text=Look inside the longer sentence").click()
    page.wait_for_function(
        "count => pellucid.run.tokens.length === count",
        arg=len(
            view.subject.tokenizer(view.first.text + "".join(view.first.record.piece(i) for i in made))["input_ids"]
        ),
    )


def test_what_if_a_head_falls_silent(page: Any, view: View) -> None:
    whatif = section(page, "whatif")
    page.evaluate("pellucid.set({layer: 0, head: 2})")
    whatif.locator('[data-run="whatif"]').click()
    whatif.locator('[data-side="after"] .bars').wait_for()
    p = said(whatif.locator('[data-side="before"] .n').first.text_content())
    assert p == pytest.approx(100 * view.first.record["logits"][0, -1].softmax(-1).max().item(), abs=0.06)
    whatif.locator('[data-open="edited"]').click()
    page.wait_for_function("() => pellucid.run.edited !== ''")
    name = page.evaluate("pellucid.run.run")
    edited = view._runs[name].record
    assert not edited["layers.0.z"][:, 2].any()
    assert page.locator(".hero .bad").is_visible()


@pytest.mark.parametrize(
    ("kind", "fill"),
    [("Swap a token", "was"), ("Patch from another sentence", "Once upon a time, there was a little girl named Lily.")],
)
def test_what_if_a_token_or_a_patch(page: Any, kind: str, fill: str) -> None:
    whatif = section(page, "whatif")
    whatif.locator(f"text={kind}").click()
    whatif.locator("input[type=text]").fill(fill)
    whatif.locator('[data-run="whatif"]').click()
    whatif.locator('[data-side="after"] .bars, .bad').first.wait_for()
    if kind.startswith("Patch"):  # from the same sentence: nothing may change
        assert "differ by 0 nats" in whatif.locator(".whatif-result p").first.text_content()


def test_two_models_are_compared(page: Any) -> None:
    whatif = section(page, "whatif")
    whatif.locator("text=a twin").click()
    whatif.locator(".compare .bars").first.wait_for()
    assert whatif.locator(".compare figure").count() == 3


def test_a_deep_link_opens_the_cell_and_the_place(browser: Any, url: str, view: View) -> None:
    page = browser.new_page()
    complaints = listen(page)
    page.goto(f"{url}#at=attention&layer=3&head=1&pos=4&step=layers.3.z&cell=0,1,4,2&lang=zh&view=numbers")
    page.wait_for_selector("#why .why-value")
    assert near(page.locator("#why .why-value").text_content(), view.first.record["layers.3.z"][0, 1, 4, 2].item())
    page.wait_for_function("() => Math.abs(document.getElementById('attention').getBoundingClientRect().top) < 400")
    assert page.evaluate("[pellucid.state.layer, pellucid.state.head, pellucid.state.pos]") == [3, 1, 4]
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert "注意力" in page.locator("#attention h2").text_content()
    page.close()
    assert complaints == []


def test_language_view_theme_and_help_switch(page: Any) -> None:
    page.click("#lang")
    page.wait_for_function("() => document.documentElement.lang === 'zh-CN'")
    page.click('[data-view="numbers"]')
    assert page.locator("html").get_attribute("data-view") == "numbers"
    section(page, "embed")
    page.locator("#embed .facts:visible").first.wait_for()
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    page.keyboard.press("?")
    page.locator("dialog").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("[")
    assert page.evaluate("pellucid.state.pos") == page.evaluate("pellucid.run.tokens.length") - 2


def test_another_sentence_runs(page: Any, view: View) -> None:
    page.fill("#prompt textarea", "The cat")
    page.press("#prompt textarea", "Enter")
    page.wait_for_function("() => pellucid.run.text === 'The cat'")
    assert page.locator("#strip .chip").count() == len(view.subject.tokenizer("The cat")["input_ids"])
    assert "text=The%20cat" in page.evaluate("location.hash") or page.evaluate("pellucid.state.text") == "The cat"


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_nothing_is_wider_than_the_window(browser: Any, url: str, width: int, lang: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    complaints = listen(page)
    page.goto(f"{url}#lang={lang}&view=numbers")
    page.wait_for_selector("h1")
    for name in SECTIONS:
        page.evaluate("name => pellucid.mount(name)", name)
    page.evaluate("pellucid.drawAll()")
    page.wait_for_timeout(600)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert complaints == []


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_every_family_has_every_section(browser: Any, family: str) -> None:
    decoder = tiny(family)
    view = View(
        Subject(decoder=decoder, tokenizer=None, name=f"tiny {family}"), first=trace(decoder, None, [5, 9, 2, 7, 5])
    )
    with PageServer(view) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = browser.new_page()
        complaints = listen(page)
        page.goto(server.url)
        page.wait_for_selector("h1")
        for name in SECTIONS:
            page.evaluate("name => pellucid.mount(name)", name)
            assert page.locator(f"#{name}").count() == 1
        page.evaluate("pellucid.drawAll()")
        page.wait_for_timeout(500)
        assert page.locator("#page .bad").count() == 0
        assert page.locator("#page .left-out").count() == 0
        assert "[object " not in page.locator("body").text_content()
        page.close()
        server.shutdown()
        thread.join()
    assert complaints == []


@pytest.mark.parametrize(
    ("description", "places"),
    [
        ("sandwich", "before rms, after rms"),
        ("parallel, one norm", "before layer, after rms ∥"),
        ("all three", "before layer, after rms, sum layer"),
    ],
)
def test_norms_are_drawn_where_the_description_has_them(browser: Any, description: str, places: str) -> None:
    t = trace(random_decoder(DESCRIPTIONS[description]), None, [5, 9, 2, 7, 5])
    page = browser.new_page()
    complaints = listen(page)
    with TemporaryDirectory() as folder:
        t.save(Path(folder) / "page.html")
        page.goto((Path(folder) / "page.html").as_uri())
        page.wait_for_selector("h1")
        for name in ("model", "mlp"):
            page.evaluate("name => pellucid.mount(name)", name)
        page.evaluate("pellucid.drawAll()")
        page.wait_for_timeout(300)
    norms = [tap for tap in t.taps.values() if tap.kind == "norm" and tap.layer == 1]
    drawn = page.locator("#model .map-svg g[aria-label*=Norm]")
    assert drawn.count() == len(norms)
    assert page.locator("#mlp .norm button").count() == len(norms)
    squares = sum((t[source][0, -1] for source in norms[-1].inputs[1:]), t[norms[-1].inputs[0]][0, -1])
    operation = norms[-1].operation
    assert isinstance(operation, Norm)
    spread = float(operation.normalized(squares.double().numpy())[2][0])
    assert near(page.locator('#mlp [data-stat="spread"]').text_content(), spread)
    assert page.locator("#model table tr").last.locator("td").nth(5).text_content() == places
    page.close()
    assert complaints == []


def test_a_sparse_layer_shows_which_experts_a_token_is_sent_to(browser: Any) -> None:
    decoder = tiny("mixtral")
    first = trace(decoder, None, [5, 9, 2, 7, 5])
    with PageServer(View(Subject(decoder=decoder, tokenizer=None, name="tiny mixtral"), first=first)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = browser.new_page()
        complaints = listen(page)
        page.goto(f"{server.url}#lang=en&layer=1&pos=3")
        page.wait_for_selector("h1")
        page.evaluate("pellucid.mount('mlp')")
        page.evaluate("pellucid.drawAll()")
        page.evaluate("pellucid.set({ layer: 1, pos: 3 })")
        page.wait_for_selector("#mlp .neurons .bar-name", timeout=10_000)
        shown = page.locator("#mlp .neurons .bar-name").all_text_contents()
        page.close()
        server.shutdown()
        thread.join()
    weights = first["layers.1.experts"][0, 3]
    assert shown == [f"expert {e}" for e in weights.argsort(descending=True)[:2].tolist()]
    assert complaints == []


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 & {{7*7}} javascript:alert(3)"


class HostileTokenizer:
    """Every token reads as an attack."""

    all_special_ids: tuple[int, ...] = ()
    pad_token_id = 0
    bos_token = "<img src=x onerror=alert(9)>"
    chat_template = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __len__(self) -> int:
        return 96

    def __call__(self, text: str | list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [5, 9, 2] if isinstance(text, str) else [[5, 9, 2] for _ in text]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f"{HOSTILE}{i}" for i in ids)

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return f"{HOSTILE}{token_id}"

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1


@pytest.mark.parametrize("live", [True, False])
def test_hostile_text_never_runs(browser: Any, tmp_path: Path, live: bool) -> None:
    """Prompt, tokens, model name, special tokens: all of it is shown as the text it is."""
    subject = Subject(decoder=tiny("llama"), tokenizer=HostileTokenizer(), name=HOSTILE, files={HOSTILE: 1})
    its = trace(subject.decoder, subject.tokenizer, HOSTILE)
    page = browser.new_page()
    complaints = listen(page)
    if live:
        server = PageServer(View(subject, first=its))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page.goto(f"{server.url}#text=&lang=en&at=<img onerror=alert(4)>&step={HOSTILE.replace('&', '')}&cell=0")
    else:
        write_page(its, tmp_path / "page.html", subject=subject)
        page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("h1")
    for name in SECTIONS:
        page.evaluate("name => pellucid.mount(name)", name)
    page.evaluate("pellucid.drawAll()")
    page.wait_for_timeout(500)
    assert HOSTILE.split()[0] in page.locator("h1").text_content()
    assert page.locator("#page img, #page script, #bar img").count() == 0
    page.close()
    if live:
        server.shutdown()
        thread.join()
    assert [complaint for complaint in complaints if "status of 4" not in complaint] == []


def test_the_offline_file_shows_the_same_run(browser: Any, subject: Subject, view: View, tmp_path: Path) -> None:
    its = view.first.record
    write_page(its, tmp_path / "page.html", subject=subject, pinned=[("layers.1.z", (0, 2, 3, 4))])
    page = browser.new_page()
    complaints = listen(page)
    page.goto((tmp_path / "page.html").as_uri() + "#lang=en&step=layers.1.z&cell=0,2,3,4")
    page.wait_for_selector("#why .why-value")
    assert near(page.locator("#why .why-value").text_content(), its["layers.1.z"][0, 2, 3, 4].item())
    assert "This is an offline file" in page.locator(".hero").text_content()
    for name in SECTIONS:
        page.evaluate("name => pellucid.mount(name)", name)
    page.evaluate("pellucid.drawAll()")
    page.wait_for_timeout(300)
    assert page.locator("#page .matrix.left-out").evaluate_all("all => all.map(one => one.dataset.name)") == [
        "logits"
    ]  # too wide for a file
    tile = page.evaluate("pellucid.source.tile('layers.2.pattern', {at: [0, 3]}).then(tile => [...tile.data])")
    assert tile == its["layers.2.pattern"][0, 3].flatten().tolist()
    page.locator("#decode .primary").click()
    page.locator("#decode .placeholder").wait_for()  # it says that this needs the live model
    page.close()
    assert complaints == []


def test_one_token_against_another_and_the_heads_between_two_words(page: Any, view: View) -> None:
    residual, its = section(page, "residual"), view.first.record
    residual.locator(".attribution select option").nth(1).wait_for(state="attached")
    best, second = its["logits"][0, -1].topk(2).indices.tolist()
    residual.locator(".attribution select").select_option(str(second))
    page.wait_for_function("() => document.querySelector('.attribution p').textContent.includes('above that of')")
    values = [said(text) for text in residual.locator(".attribution .bars .n").all_text_contents()]
    assert sum(values) == pytest.approx((its["logits"][0, -1, best] - its["logits"][0, -1, second]).item(), abs=0.02)
    attention = section(page, "attention")
    attention.locator(".lookers select").select_option("3")
    page.wait_for_function("() => document.querySelector('.lookers select').value === '3'")
    page.wait_for_timeout(300)
    strongest = max(its[f"layers.{layer}.pattern"][0, :, -1, 3].max().item() for layer in range(5))
    assert said(attention.locator(".lookers .n").first.text_content()) == pytest.approx(100 * strongest, abs=0.06)


def test_an_engineer_types_the_name_of_a_number(page: Any, view: View) -> None:
    page.click('[data-view="numbers"]')
    page.fill(".go-to", "layers.3.z[0, 1, 4, 2]")
    page.press(".go-to", "Enter")
    page.wait_for_selector("#why .why-value")
    assert near(page.locator("#why .why-value").text_content(), view.first.record["layers.3.z"][0, 1, 4, 2].item())
    page.fill(".go-to", "layers.1.mlp_act")
    page.press(".go-to", "Enter")
    page.wait_for_selector('#cell .matrix[data-name="layers.1.mlp_act"]')
