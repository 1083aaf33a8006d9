"""The web chat in a real browser, before a real server with a small model: it shows what the engine computed."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from chromium import chromium

from pellucid.auto import open_model, tokenizer_of
from pellucid.cli.runs.session import Session
from pellucid.explain.questions.hiding import hiding
from pellucid.generate.engine import Engine
from pellucid.generate.request import Request
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder
from pellucid.sampling import SamplingParams
from pellucid.serve.app import create_app
from pellucid.serve.settings import Settings
from pellucid.serve.why import Explanations
from pellucid.serve.work.models import Model, Models
from pellucid.web.connections import quiet_server

TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
QUESTION = "Once upon a time, there was a little girl named"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def session(stories: Path) -> Session:
    checkpoint = open_model(stories / "stories260K.bin")
    tokenizer = tokenizer_of(checkpoint)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return Session(checkpoint, tokenizer, Engine(TorchExecutor(decoder), tokenizer))


def another(session: Session) -> Session:
    """The same model in an engine of its own, which its server closes."""
    decoder = session.engine.executor.decoder  # type: ignore[attr-defined]
    return Session(session.checkpoint, session.tokenizer, Engine(TorchExecutor(decoder), session.tokenizer))


@contextmanager
def serving(session: Session, load: Any = None, **settings: Any) -> Iterator[tuple[str, list[Models]]]:
    """The address of a server that answers with this model, and its models."""
    models: list[Models] = []

    async def serve() -> None:
        models.append(Models([Model("stories", load or (lambda: another(session)))]))
        app = create_app(models[0], Settings(**{"template": TEMPLATE, **settings}))
        server = quiet_server(app, max_connections=64, seconds=30, timeout_graceful_shutdown=1)
        servers.append(server)
        await server.serve([taken])

    servers: list[Any] = []
    taken = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/", models
    finally:
        servers[0].should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def served(session: Session) -> Iterator[tuple[str, Any]]:
    with serving(session) as (url, models):
        yield url, models


@pytest.fixture(scope="module")
def url(served: tuple[str, Any]) -> str:
    return served[0]


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """A fresh page in English; it fails the test if the page ever complained, or asked anybody else for anything."""
    with opened(browser, url) as page:
        yield page


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    look = {"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce", "locale": "en-GB", **options}
    context = browser.new_context(**look)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "blob:", "data:")) else complaints.append(request.url),
    )
    page.goto(url)
    page.wait_for_function("() => globalThis.pellucid?.models.length")
    page.evaluate("pellucid.set({temperature: '0', max_tokens: '24'})")
    yield page
    assert "[object " not in page.locator("body").text_content()  # a list of nodes that was written as text
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def asked(browser: Any, url: str) -> Iterator[Any]:
    """A page with an answer, for tests that look at it and change nothing."""
    with opened(browser, url) as page:
        ask(page)
        yield page


def ask(page: Any, text: str = QUESTION) -> Any:
    """Writes, sends, waits for the end; the last answer."""
    page.fill("#ask", text)
    page.keyboard.press("Enter")
    return finished(page)


def finished(page: Any) -> Any:
    page.wait_for_function("() => pellucid.running.size === 0 && Object.keys(pellucid.talk.nodes).length > 1")
    page.wait_for_function("() => document.querySelector('.answer:last-of-type .facts')")
    return page.locator(".answer").last


def token_of(answer: Any, index: int) -> Any:
    """A token's letters; those of its leading space are an element before."""
    return answer.locator(f'.t[data-i="{index}"]').last


def shown_node(page: Any) -> dict[str, Any]:
    """The last message that is shown, as the page holds it."""
    return page.evaluate(
        "import('/chat/tree.js').then(tree => { const {...node} = tree.path(pellucid.talk).at(-1); return node; })"
    )


def greedy(session: Session, ids: list[int], count: int) -> list[int]:
    """What the model writes by itself: an engine of the test's own."""
    engine = another(session).engine
    request = Request(prompt_ids=ids, max_new_tokens=count, sampling=SamplingParams(temperature=0.0))
    return list(engine.run([request])[0].token_ids)


def log_probabilities(session: Session, ids: list[int]) -> torch.Tensor:
    """(T, V) of the decoder's own plain run."""
    from pellucid.model.context import Context

    decoder = session.engine.executor.decoder  # type: ignore[attr-defined]
    with torch.no_grad():
        ctx = Context(torch.arange(len(ids))[None])
        return decoder.logits(decoder.hidden(torch.tensor([ids]), ctx), ctx)[0].double().log_softmax(-1)


def test_an_answer_streams_and_is_the_models_own(asked: Any, session: Session) -> None:
    answer, node = asked.locator(".answer"), shown_node(asked)
    ids = session.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], chat_template=TEMPLATE, add_generation_prompt=True, return_dict=False
    )
    assert node["promptIds"] == ids
    assert [token["id"] for token in node["tokens"]] == greedy(session, ids, 24)
    assert answer.locator(".body").text_content().strip() == node["content"].strip()
    assert node["usage"]["completion_tokens"] == 24


def test_every_letter_of_an_answer_belongs_to_a_token_that_can_be_opened(asked: Any) -> None:
    answer = asked.locator(".answer")
    spans = answer.locator(".body .t")
    assert "".join(spans.all_text_contents()) == answer.locator(".body").text_content()
    node = shown_node(asked)
    placed = [token for token in node["tokens"] if token["at"] is not None]
    assert len(placed) == 24
    assert all(node["content"][token["at"] : token["end"]].strip() == token["text"].strip() for token in placed)


def test_a_token_shows_the_engines_own_probabilities(asked: Any, session: Session) -> None:
    page, answer, node = asked, asked.locator(".answer"), shown_node(asked)
    ids = [token["id"] for token in node["tokens"]]
    truth = log_probabilities(session, node["promptIds"] + ids)[len(node["promptIds"]) - 1 :]
    token_of(answer, 5).click()
    for index in range(5, 9):
        page.wait_for_function(f"() => pellucid.opened?.index === {index}")
        rows = page.locator("#panel .could button")
        told = [(int(row.get_attribute("data-id")), float(row.get_attribute("data-logprob"))) for row in rows.all()]
        best = truth[index].topk(10)
        assert [token for token, _ in told] == best.indices.tolist()
        assert [value for _, value in told] == pytest.approx(best.values.tolist(), abs=1e-4)
        said = rows.first.locator(".p").text_content()
        assert float(said.rstrip(" %")) == pytest.approx(100 * math.exp(best.values[0]), rel=5e-3)
        page.keyboard.press("ArrowRight")


def test_going_on_with_another_token_is_what_the_model_writes_after_it(page: Any, session: Session) -> None:
    first = ask(page)
    before = first.locator(".body").text_content()
    node = shown_node(page)
    token_of(first, 3).click()
    page.locator("#panel .could button").nth(1).click()
    answer = finished(page)
    branch = shown_node(page)
    other = node["tokens"][3]["top"][1]["id"]
    ids = [token["id"] for token in node["tokens"]]
    begun = [*ids[:3], other]
    assert [token["id"] for token in branch["tokens"]] == [*begun, *greedy(session, node["promptIds"] + begun, 24)]
    assert branch["content"].startswith(node["content"][: node["tokens"][3]["at"]])
    assert "".join(answer.locator(".body .t").all_text_contents()) == answer.locator(".body").text_content()
    assert answer.locator(".branches").text_content() == "2 / 2"
    answer.locator(".branches button").first.click()
    assert page.locator(".answer .body").text_content() == before


def test_going_on_with_words_of_ones_own(page: Any, session: Session) -> None:
    first = ask(page)
    node = shown_node(page)
    token_of(first, 3).click()
    page.fill("#panel .own input", " dog ran")
    page.keyboard.press("Enter")
    page.wait_for_selector(".branches")
    answer = finished(page)
    branch = shown_node(page)
    begun = [token["id"] for token in branch["tokens"] if token.get("yours")]
    assert session.tokenizer.decode(begun).strip() == "dog ran"
    assert branch["content"].startswith(node["content"][: node["tokens"][3]["at"]] + " dog ran")
    ids = [token["id"] for token in node["tokens"][:3]] + begun
    assert [token["id"] for token in branch["tokens"]] == ids + greedy(session, node["promptIds"] + ids, 24)
    token_of(answer, 4).click()
    assert page.locator("#panel .verdict").text_content() == "Put here by you."


def test_why_opens_the_same_numbers(asked: Any, session: Session) -> None:
    page, answer, node = asked, asked.locator(".answer"), shown_node(asked)
    token_of(answer, 6).click()
    page.click("#why")
    page.wait_for_selector("#all-pictures")
    token = node["tokens"][6]
    assert float(page.locator("#panel .why p").first.get_attribute("data-p")) == pytest.approx(
        math.exp(token["logprob"]), rel=1e-4
    )
    last = float(page.locator(".layers li").first.locator(".p").text_content().rstrip(" %"))
    assert last == pytest.approx(100 * math.exp(token["logprob"]), rel=5e-3)
    page.click("#hung-on")
    page.wait_for_selector("#panel .flow span")
    ids = [*node["promptIds"], *(one["id"] for one in node["tokens"][:6])]
    decoder = session.engine.executor.decoder  # type: ignore[attr-defined]
    told = hiding(decoder, ids, token["id"], positions=range(len(ids)))
    titles = page.locator("#panel .flow span").evaluate_all("all => all.map(span => span.title)")
    assert len(titles) == len(ids)
    for title, value in zip(titles, told.without, strict=True):
        if "<" not in title and ">" not in title:
            assert float(title.removeprefix("without it: ").rstrip(" %")) == pytest.approx(
                100 * math.exp(value), rel=1e-2
            )
    with page.context.expect_page() as opening:
        page.click("#all-pictures")
    explained = opening.value
    explained.wait_for_selector("#output")
    prompt = len(node["promptIds"])
    assert explained.evaluate("pellucid.run.tokens.map(token => token.id)") == [
        *node["promptIds"],
        *(one["id"] for one in node["tokens"][:6]),
    ]
    assert explained.evaluate("pellucid.state.pos") == prompt + 6 - 1
    best = explained.evaluate("pellucid.run.next")
    told = {one["id"]: math.exp(one["logprob"]) for one in token["top"]}
    for one in best:
        if one["id"] in told:
            assert one["p"] == pytest.approx(told[one["id"]], rel=1e-4)
    explained.close()


def test_stopping_keeps_what_is_there_and_frees_the_server(page: Any, served: tuple[str, Any]) -> None:
    page.evaluate("pellucid.set({max_tokens: '400'})")
    page.fill("#ask", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.answer .t').length > 3")
    page.click("#stop")
    finished(page)
    node = shown_node(page)
    assert node["finish"] == "stopped"
    assert 3 < len(node["tokens"]) < 400
    for _ in range(100):
        if served[1][0].models[0].worker.in_line == 0:
            break
        page.wait_for_timeout(20)
    assert served[1][0].models[0].worker.in_line == 0


def test_an_answer_that_was_cut_goes_on_as_if_it_had_not_been(page: Any, session: Session) -> None:
    answer = ask(page)
    node = shown_node(page)
    answer.get_by_role("button", name="Go on").click()
    page.wait_for_function("() => pellucid.running.size === 0 && document.querySelectorAll('.answer .t').length > 30")
    answer = finished(page)
    whole = shown_node(page)
    assert [token["id"] for token in whole["tokens"]] == greedy(session, node["promptIds"], 48)
    assert whole["content"].startswith(node["content"])
    assert "".join(answer.locator(".body .t").all_text_contents()) == answer.locator(".body").text_content()


def test_editing_and_answering_again_are_branches(page: Any) -> None:
    ask(page)
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit").click()
    page.locator(".question textarea").fill("One day, a dog")
    page.keyboard.press("Enter")
    finished(page)
    assert page.locator(".question .said").text_content() == "One day, a dog"
    assert page.locator(".question .branches").text_content() == "2 / 2"
    page.get_by_role("button", name="Answer again").click()
    answer = finished(page)
    assert answer.locator(".branches").text_content() == "2 / 2"
    page.locator(".question .branches button").first.click()
    assert page.locator(".question .said").text_content() == QUESTION
    assert page.locator(".answer .branches").count() == 0


def test_a_second_question_carries_the_conversation(page: Any) -> None:
    first = ask(page).locator(".body").text_content()
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    ask(page, "And then?")
    assert [message["content"].strip() for message in sent[0]["messages"]] == [QUESTION, first.strip(), "And then?"]


def test_conversations_survive_a_reload(page: Any) -> None:
    text = ask(page).locator(".body").text_content()
    page.reload()
    page.wait_for_selector(".answer .t")
    assert page.locator(".answer .body").text_content() == text
    token_of(page.locator(".answer"), 2).click()
    assert page.locator("#panel .could button").count() == 10
    page.click("#new")
    assert page.locator(".welcome").is_visible()
    page.locator(".talks a").click()
    assert page.locator(".answer .body").text_content() == text


def test_a_conversation_is_renamed_exported_and_deleted(page: Any) -> None:
    content = ask(page).locator(".body").text_content().strip()
    page.locator(".talks li .icon").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.keyboard.type("A tale")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.talks a')?.textContent === 'A tale'")
    assert page.locator("#top .title").text_content() == "A tale"
    page.locator(".talks li .icon").click()
    with page.expect_download() as saving:
        page.get_by_role("menuitem", name="Export as Markdown").click()
    saved = Path(saving.value.path()).read_text()
    assert saving.value.suggested_filename == "A tale.md"
    assert QUESTION in saved
    assert content in saved
    page.locator(".talks li .icon").click()
    with page.expect_download() as saving:
        page.get_by_role("menuitem", name="Export as JSON").click()
    told = json.loads(Path(saving.value.path()).read_text())
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator(".talks li .icon").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.wait_for_selector(".welcome")
    assert page.locator(".talks li").count() == 0
    damaged = {**told, "conversation": {**told["conversation"], "nodes": {"a": {"role": "assistant", "tokens": 3}}}}
    for value in (told, damaged, {"format": "other"}, []):
        files = [{"name": "a.json", "mimeType": "application/json", "buffer": json.dumps(value).encode()}]
        page.set_input_files("#side input[type=file]", files)
        page.wait_for_function("() => document.querySelector('#said').textContent")
        page.evaluate("pellucid.say('')")
        if value is told:
            page.wait_for_selector(".answer .t")
            assert page.locator(".answer .body").text_content().strip() == content
            page.locator(".answer .t").last.click()
            assert page.locator("#panel .could button").count() == 10


def test_a_conversation_that_is_deleted_while_it_grows_stays_deleted(page: Any) -> None:
    page.evaluate("pellucid.set({max_tokens: '400'})")
    page.fill("#ask", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.answer .t').length > 3")
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator(".talks li .icon").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.wait_for_selector(".welcome")
    page.wait_for_function("() => pellucid.running.size === 0")
    assert page.evaluate("pellucid.store.heads()") == []


def test_enter_that_ends_a_composition_sends_nothing(page: Any) -> None:
    """An input method's Enter chooses letters."""
    page.fill("#ask", "你好")
    page.evaluate(
        """() => { const area = document.querySelector('#ask');
        area.dispatchEvent(new CompositionEvent('compositionstart'));
        const enter = more => area.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, ...more}));
        enter({isComposing: true});
        enter({keyCode: 229});
        // Safari: the end of the composition comes before its Enter
        area.dispatchEvent(new CompositionEvent('compositionend'));
        enter({}); }"""
    )
    assert page.locator(".question").count() == 0
    assert page.input_value("#ask") == "你好"
    page.wait_for_timeout(20)
    page.keyboard.press("Shift+Enter")
    assert page.input_value("#ask") == "你好\n"
    page.keyboard.press("Enter")
    page.wait_for_selector(".question")
    finished(page)


def test_a_file_is_sent_as_text_and_a_binary_is_refused(page: Any) -> None:
    page.set_input_files(
        "#foot input[type=file]",
        [
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a cat\n"},
            {"name": "sound.bin", "mimeType": "application/octet-stream", "buffer": b"\xff\xfe\x00"},
        ],
    )
    page.wait_for_selector(".file-chip")
    assert page.locator(".file-chip").count() == 1
    assert "sound.bin" in page.locator("#said").text_content()
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    ask(page, "What is in it?")
    assert sent[0]["messages"][0]["content"] == "notes.txt\n```\na cat\n```\n\nWhat is in it?"


HOSTILE = """<img src=x onerror="document.title='gone'"><script>document.title='gone'</script>

[a](javascript:document.title='gone') ![pixel](http://evil.example/p.png) [b](http://example.com/?q=1 "t")

**bold _both_ `<b>code</b>`**

| a | b |
|---|:-:|
| <i>x</i> | 2 |

```html
<script>1</script>
```
"""


def chunks(content: str, reasoning: str = "", calls: list[Any] | None = None) -> str:
    """A stream as a server writes it, a few letters at a time."""

    def one(delta: dict[str, Any], finish: str | None = None) -> str:
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\n\n"

    pieces = [one({"reasoning_content": reasoning[i : i + 7]}) for i in range(0, len(reasoning), 7)]
    pieces += [one({"content": content[i : i + 7]}) for i in range(0, len(content), 7)]
    pieces += [one({"tool_calls": [call]}) for call in calls or []]
    return "".join([*pieces, one({}, "stop"), "data: [DONE]\n\n"])


def fake(page: Any, body: str) -> None:
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))


def test_what_an_answer_holds_is_text_and_never_markup(page: Any) -> None:
    fake(page, chunks(HOSTILE))
    answer = ask(page, HOSTILE)
    assert page.title() != "gone"
    body = answer.locator(".body")
    for tag in ("img", "script", "i", "b"):
        assert body.locator(tag).count() == 0
    assert body.locator("a").evaluate_all("all => all.map(a => a.href)") == ["http://example.com/?q=1"]
    assert "javascript:document.title" in body.text_content()
    assert body.locator("strong em code, strong code").first.text_content() == "<b>code</b>"
    assert body.locator("td").first.text_content() == "<i>x</i>"
    assert body.locator("figure.code pre").text_content() == "<script>1</script>"
    body.locator("figure.code button").click()
    page.wait_for_function("() => document.querySelector('#said').textContent")
    assert page.evaluate("navigator.clipboard.readText()") == "<script>1</script>"


def test_thoughts_are_folded_and_tool_calls_are_shown_as_calls(page: Any) -> None:
    calls = [
        {"index": 0, "id": "1", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
    ]
    fake(page, chunks("Here:", "Let me think.", calls))
    answer = ask(page)
    assert not answer.locator(".thoughts .body").is_visible()
    answer.locator(".thoughts summary").click()
    assert answer.locator(".thoughts .body").text_content() == "Let me think."
    assert answer.locator(".call figcaption").text_content() == "Calls a tool weather"
    assert json.loads(answer.locator(".call pre").text_content()) == {"city": "Paris"}


def test_a_thought_is_opened_token_by_token_and_left_by_a_branch(browser: Any, session: Session) -> None:
    """By the server's own reader: what one puts before the answer has the tags of a thought."""
    with serving(session, template=TEMPLATE + "{# <think> </think> #}") as (url, _), opened(browser, url) as page:
        first = ask(page)
        token_of(first, 0).click()
        page.fill("#panel .own input", "<think> A dog is big. </think> One day")
        page.keyboard.press("Enter")
        page.wait_for_selector(".branches")
        answer = finished(page)
        node = shown_node(page)
        assert node["reasoning"] == "A dog is big."
        assert node["content"].startswith("One day")
        answer.locator(".thoughts summary").click()
        thought = answer.locator(".thoughts .body")
        assert "".join(thought.locator(".t").all_text_contents()) == "A dog is big."
        assert "".join(answer.locator(":scope > .body .t").all_text_contents()) == node["content"].rstrip()
        thought.locator(".t").last.click()
        page.fill("#panel .own input", " and </think> The end")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('.branches')?.textContent.includes('3')")
        finished(page)
        branch = shown_node(page)
        assert branch["reasoning"] == "A dog is big and"
        assert branch["content"].startswith("The end")


def test_an_error_is_said_and_what_came_before_stays(page: Any) -> None:
    body = chunks("Half an ans").replace("data: [DONE]\n\n", "").rpartition("data: ")[0]
    fake(page, body + f"data: {json.dumps({'error': {'message': 'no memory for this'}})}\n\n")
    answer = ask(page)
    assert answer.locator(".body").text_content() == "Half an ans"
    assert "no memory for this" in answer.locator(".bad").text_content()


MARKDOWN = [
    (
        "a *b* **c** ***d*** _e_ f_g_h ~~i~~",
        "<p>a <em>b</em> <strong>c</strong> <em><strong>d</strong></em> <em>e</em> f_g_h <del>i</del></p>",
    ),
    ("**中文**很好", "<p><strong>中文</strong>很好</p>"),
    ("2 * 3 * 4 and 5*6", "<p>2 * 3 * 4 and 5*6</p>"),
    ("`a``b` ``c`d``", "<p><code>a``b</code> <code>c`d</code></p>"),
    ("- a\n- b\n  1. c\n  2. d\n- e", "<ul><li>a</li><li>b<ol><li>c</li><li>d</li></ol></li><li>e</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("> a\n> - b\n\nc", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote><p>c</p>"),
    ("# T\n## U #\ntext", "<h3>T</h3><h4>U</h4><p>text</p>"),
    ("a\n---\nb", "<p>a</p><hr><p>b</p>"),
    ("\\*a\\* b\\c", "<p>*a* b\\c</p>"),
    ("1. one\n\n   more\n2. two", "<ol><li><p>one</p><p>more</p></li><li><p>two</p></li></ol>"),
    ("see http://a.b/c_d(e). ok", '<p>see <a href="http://a.b/c_d(e">http://a.b/c_d(e</a>). ok</p>'),
]


@pytest.fixture(scope="module")
def blank(browser: Any, url: str) -> Iterator[Any]:
    """A page that nothing is asked on."""
    with opened(browser, url) as page:
        yield page


@pytest.mark.parametrize(("source", "html"), MARKDOWN, ids=[source[:12] for source, _ in MARKDOWN])
def test_markdown(blank: Any, source: str, html: str) -> None:
    drawn = blank.evaluate(DRAW, source)
    assert re.sub(r' (?:class|target|rel|title|tabindex)="[^"]*"', "", drawn) == html


DRAW = """async source => {
  const {draw} = await import('/chat/draw.js'), {blocks} = await import('/chat/markdown.js');
  const place = document.createElement('div');
  place.append(...blocks(source).map(block => draw(pellucid, block, text => [text])));
  return place.innerHTML;
}"""


def test_every_letter_that_markdown_shows_stands_at_its_place_in_the_source(blank: Any) -> None:
    sources = [*(source for source, _ in MARKDOWN), HOSTILE]
    wrong = blank.evaluate(
        """async sources => {
          const {draw} = await import('/chat/draw.js'), {blocks} = await import('/chat/markdown.js');
          const wrong = [];
          for (const source of sources) {
            const place = (text, from) => {
              if (source.slice(from, from + text.length) !== text) wrong.push([source, text, from]);
              return [text];
            };
            blocks(source).forEach(block => draw(pellucid, block, place));
          }
          return wrong;
        }""",
        sources,
    )
    assert wrong == []


@pytest.mark.parametrize(
    "piece", ["*", "**a", "_", "[", "![", "[a](", "`", "``a", "> ", "- ", "|", "~~", "<http://", "(", "http://("]
)
def test_no_answer_keeps_the_page_busy(blank: Any, piece: str) -> None:
    """Markdown that is read in quadratic time would let an answer stop the page."""
    took = blank.evaluate(
        f"""async piece => {{
          const source = piece.repeat(60000 / piece.length), start = performance.now();
          await ({DRAW})(source);
          return performance.now() - start;
        }}""",
        piece,
    )
    assert took < 3000


def test_nothing_is_wider_than_a_phone(browser: Any, url: str) -> None:
    wide = (
        "x" * 400
        + "\n\n```\n"
        + "y" * 400
        + "\n```\n\n|"
        + "|".join("column" * 3 for _ in range(9))
        + "|\n|"
        + "-|" * 9
    )
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, url, **phone) as page:

        def fits() -> None:
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.evaluate("document.querySelector('#thread').scrollWidth") <= 390

        fits()
        page.fill("#ask", QUESTION)
        page.click("#send")
        answer = finished(page)
        fits()
        token_of(answer, 4).click()
        page.wait_for_selector("#panel .could")
        fits()
        box = page.locator("#panel").bounding_box()
        assert box["x"] == 0
        assert box["width"] == 390
        page.get_by_role("button", name="Close").last.click()
        page.click("#settings")
        fits()
        page.keyboard.press("Escape")
        page.click("#menu")
        fits()
        page.locator("#veil").click(position={"x": 380, "y": 400})
        fake(page, chunks(wide))
        page.fill("#ask", "z" * 300)
        page.click("#send")
        finished(page)
        fits()


def test_chinese_and_dark_are_whole(browser: Any, url: str) -> None:
    with opened(browser, url, locale="zh-CN", color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.locator("#new").text_content() == "新对话"
        token_of(ask(page), 0).click()
        assert "模型的首选" in page.locator("#panel .verdict").text_content()
        page.click("#lang")
        assert page.locator("#new").text_content() == "New conversation"
        both = page.evaluate(
            """Promise.all(['en', 'zh'].map(async name => {
              const words = (await import(`/chat/words.${name}.js`))[name];
              return Object.entries(words).map(([key, word]) => `${key} ${typeof word} ${word.length > 0}`);
            }))"""
        )
        assert both[0] == both[1]


def test_settings_reach_the_request(page: Any) -> None:
    page.click("#settings")
    page.fill('[name="system"]', "Be brief.")
    page.fill('[name="top_k"]', "5")
    page.fill('[name="seed"]', "7")
    page.fill('[name="min_p"]', "3")  # out of range: not taken
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    ask(page)
    assert sent[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent[0]["top_k"], sent[0]["seed"], sent[0]["temperature"]) == (5, 7, 0)
    assert "min_p" not in sent[0]
    page.get_by_role("button", name="Answer again").click()
    finished(page)
    assert sent[-1]["seed"] == 8  # a branch is another answer, and repeatable as well


# --- the server's side -----------------------------------------------------------------------------------------------


def test_the_page_comes_with_its_policy_and_only_its_own_files(url: str) -> None:
    for path in ("", "chat/main.js", "chat/explain/dom.js"):
        response = httpx.get(url + path)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
    for path in ("chat/../app.py", "chat/%2e%2e/app.py", "chat/explain/main.js", "chat/", "chat//etc/passwd"):
        assert httpx.get(url + path).status_code == 404


def test_an_explanation_that_is_too_long_is_refused_in_words(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.serve.why.MOST_BYTES", 2**20)
    response = httpx.post(f"{url}why", json={"token_ids": list(range(1, 200))}, timeout=60)
    assert response.status_code == 400
    assert "200" not in response.text
    assert "199 tokens is too long" in response.json()["error"]["message"]


def test_the_last_explanations_are_kept_and_others_are_gone(url: str) -> None:
    told = [httpx.post(f"{url}why", json={"token_ids": [1, 2, 3 + i]}, timeout=60).json() for i in range(4)]
    status = [httpx.get(f"{url}{one['url']}api/run").status_code for one in told]
    assert status == [404, 200, 200, 200]
    assert httpx.get(f"{url}{told[-1]['url']}").headers["content-type"].startswith("text/html")
    assert httpx.get(f"{url}why/{'x' * 22}/").status_code == 404


def test_a_model_that_is_given_back_takes_its_explanations_along(session: Session) -> None:
    explanations, loaded = Explanations(), another(session)
    token, _ = explanations.add("stories", loaded, [1, 2, 3])
    assert explanations.get(token) is not None
    del loaded
    gc.collect()
    assert explanations.get(token) is None
    assert explanations._subject is None


def test_a_model_that_does_not_chat_goes_on_with_the_text(browser: Any, session: Session) -> None:
    with serving(session, template=None) as (url, _), opened(browser, url) as page:
        page.wait_for_function("() => document.querySelector('.welcome .plain')")
        ask(page)
        node = shown_node(page)
        assert node["promptIds"] == session.tokenizer.encode(QUESTION)
        assert [token["id"] for token in node["tokens"]] == greedy(session, node["promptIds"], 24)


def test_a_key_guards_what_runs_the_model_and_not_the_page(session: Session) -> None:
    with serving(session, api_keys=("secret",)) as (url, _):
        assert httpx.get(url).status_code == 200
        assert httpx.get(f"{url}chat/main.js").status_code == 200
        assert httpx.get(f"{url}v1/models").status_code == 401
        assert httpx.post(f"{url}why", json={"token_ids": [1]}).status_code == 401
        key = {"Authorization": "Bearer secret"}
        told = httpx.post(f"{url}why", json={"token_ids": [1]}, headers=key, timeout=60).json()
        assert httpx.get(f"{url}{told['url']}api/run").status_code == 200


def test_an_answer_that_begins_with_tokens_goes_on_after_them(url: str, session: Session) -> None:
    """The branch's own request, without the page."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 8,
        "return_token_ids": True,
    }
    alone = httpx.post(f"{url}v1/chat/completions", json=body, timeout=60).json()
    assert "error" not in alone
    ids = alone["choices"][0]["token_ids"]
    again = httpx.post(
        f"{url}v1/chat/completions", json={**body, "max_tokens": 5, "answer_token_ids": ids[:3]}, timeout=60
    ).json()
    assert again["choices"][0]["token_ids"] == ids[3:]
    assert again["choices"][0]["message"]["content"] == alone["choices"][0]["message"]["content"]
    assert again["prompt_token_ids"] == alone["prompt_token_ids"]


@pytest.mark.slow  # compiles the program, with its taps and without
def test_why_of_the_native_executor_has_the_programs_own_numbers(stories: Path) -> None:
    from pellucid.native.executor import NativeExecutor

    checkpoint = open_model(stories / "stories260K.bin")
    tokenizer = tokenizer_of(checkpoint)
    session = Session(
        checkpoint, tokenizer, Engine(NativeExecutor(checkpoint.config, checkpoint.weights, threads=1), tokenizer)
    )
    with serving(session, lambda: session) as (url, _):
        body = {
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": 9,
            "logprobs": True,
        }
        told = httpx.post(
            f"{url}v1/chat/completions", json={**body, "top_logprobs": 10, "return_token_ids": True}, timeout=60
        ).json()
        ids = [*told["prompt_token_ids"], *told["choices"][0]["token_ids"][:8]]
        why = httpx.post(f"{url}why", json={"token_ids": ids}, timeout=300).json()
        assert why["executor"] == "native"
        output = httpx.get(f"{url}{why['url']}api/output?pos={why['position']}", timeout=60).json()
        explained = {one["id"]: one["p"] for one in output["top"]}
        for one in told["choices"][0]["logprobs"]["content"][8]["top_logprobs"]:
            assert explained[one["id"]] == pytest.approx(math.exp(one["logprob"]), rel=1e-5)
