"""Constrained tool calls: whatever is drawn from the masks of a format's grammar is read back as valid calls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from tool_formats import FILES, SPECIAL, TEMPLATES, TOOLS, Case, case

from pellucid.base.errors import RequestError
from pellucid.grammar.answers import answer_grammar, asked_grammar, response_format_grammar
from pellucid.grammar.matcher import GrammarConstraint, constrain
from pellucid.grammar.vocabulary import vocabulary_of
from pellucid.text.detokenizer import IncrementalDetokenizer
from pellucid.text.load import load_tokenizer
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.tools.asked import Asked, asked
from pellucid.text.tools.deltas import Message, joined

NAMES = sorted({**FILES, **TEMPLATES})
CLOSERS = (
    '"',
    "}",
    "]",
    "</arg_value>",
    "</parameter>",
    '<|"|>',
    "<escape>",
    "</think>",
    "<|end|>",
    "<｜tool▁calls▁end｜>",
)
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def loaded(shared: Path) -> dict[str, tuple[Case, Tokenizer]]:
    return {}


@pytest.fixture(params=NAMES)
def pair(
    request: pytest.FixtureRequest, shared: Path, loaded: dict[str, tuple[Case, Tokenizer]]
) -> tuple[Case, Tokenizer]:
    """A format, and a small vocabulary that has its special tokens."""
    name = request.param
    if name not in loaded:
        tokenizer = load_tokenizer(shared / "minimind_tokenizer")
        tokenizer.add_tokens(SPECIAL.get(name, []), special_tokens=True)
        special = {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL.get(name, [])}
        loaded[name] = case(name, shared, special), tokenizer
    return loaded[name]


def draw(constraint: GrammarConstraint, tokenizer: Tokenizer, seed: int) -> str:
    """An answer drawn from the masks, which now and then closes what is open, and ends when it may."""
    random, matcher, ids = np.random.default_rng(seed), constraint.start(), list[int]()
    vocabulary, end = vocabulary_of(tokenizer, len(tokenizer)), tokenizer.stop_token_ids[0]
    special = {tokenizer.convert_ids_to_tokens(i): i for i in tokenizer.special_ids}
    while len(ids) < 3000:
        mask = matcher.mask()
        if mask[end] and (random.random() < 0.6 or mask.sum() == 1):
            break
        following = [int(random.choice(np.flatnonzero(mask)))]
        if random.random() < 0.5:
            for place in random.permutation(len(CLOSERS)):
                text = CLOSERS[place]
                closing = [special[text]] if text in special else vocabulary.cut(text.encode())
                if matcher.valid_prefix(closing) == len(closing):
                    following = closing
                    break
        for token in following:
            if token == end:
                break
            matcher.accept(token)
            ids.append(token)
    else:
        pytest.fail("the answer does not come to its end")
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=False, prompt_ids=tokenizer.encode("x"))
    return "".join([*map(detokenizer.push, ids), detokenizer.flush()])


def answers(pair: tuple[Case, Tokenizer], wanted: Asked, prompt: str, seeds: int) -> list[Message]:
    one, tokenizer = pair
    grammar = answer_grammar(one.form, wanted, prompt)
    assert grammar is not None
    constraint = constrain(grammar, tokenizer, len(tokenizer), tokenizer.stop_token_ids[:1])
    messages = []
    for seed in range(seeds):
        text = draw(constraint, tokenizer, seed)
        parser = one.form.parser(wanted, prompt)
        messages.append(joined([*parser.push(text), *parser.finish()]))
    return messages


def check_calls(message: Message, wanted: Asked) -> None:
    for call in message.calls:
        tool = wanted.tool(str(call.name))
        assert tool is not None
        jsonschema_rs.validate(_without_lengths(tool.parameters), json.loads(call.arguments))


def _without_lengths(schema: Any) -> Any:
    """Between tags a string's length is not held to."""
    if isinstance(schema, dict):
        return {key: _without_lengths(value) for key, value in schema.items() if key != "maxLength"}
    return [_without_lengths(one) for one in schema] if isinstance(schema, list) else schema


def test_a_required_call_is_made_and_fits_its_schema(pair: tuple[Case, Tokenizer]):
    wanted = asked(TOOLS, "required")
    prompt = pair[0].said([("now", {})])[0]
    for message in answers(pair, wanted, prompt, 5):
        assert message.calls
        assert message.content == ""
        check_calls(message, wanted)


def test_a_named_tool_is_called_once(pair: tuple[Case, Tokenizer]):
    wanted = asked(TOOLS, {"type": "function", "function": {"name": "get_weather"}})
    for message in answers(pair, wanted, "", 3):
        assert [call.name for call in message.calls] == ["get_weather"]
        check_calls(message, wanted)


def test_left_to_the_model_an_answer_is_words_or_calls_that_fit(pair: tuple[Case, Tokenizer]):
    wanted = asked(TOOLS, "auto", parallel_tool_calls=False)
    for message in answers(pair, wanted, "", 4):
        assert len(message.calls) <= 1
        check_calls(message, wanted)


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "llama3", "none"])
def test_a_call_without_tags_is_held_to_its_schema_too_and_other_json_is_text(shared: Path, name: str):
    one, tokenizer = case(name, shared), load_tokenizer(shared / "minimind_tokenizer")
    grammar = answer_grammar(one.form, asked(TOOLS))
    assert grammar is not None
    constraint = constrain(grammar, tokenizer, len(tokenizer), tokenizer.stop_token_ids)
    vocabulary = vocabulary_of(tokenizer, len(tokenizer))

    def allowed(text: str) -> bool:
        matcher = constraint.start()
        for token in vocabulary.cut(text.encode()):
            if not matcher.mask()[token]:
                return False
            matcher.accept(token)
        return bool(matcher.mask()[tokenizer.stop_token_ids].all())

    key = "parameters" if name == "llama3" else "arguments"
    right = f'{{\n  "name": "get_weather",\n  "{key}": {{\n    "city": "Oslo", "days": 2\n  }}\n}}'
    wrong = right.replace('"days": 2', '"days": 99')
    for text in (right, f"```json\n{right}\n```", '{"a": 1}', "```json\n[1]\n```", "Words.", ""):
        assert allowed(text), text
    if name == "qwen3":
        assert allowed("\n<think>One could write <tool_call> here.</think>Yes.")
    for text in (wrong, f"```json\n{wrong}\n```", f" \n```\n{wrong}", right.replace("weather", "whether")):
        assert not allowed(text), text
    if one.form.thought is not None:
        assert allowed(f"<think>Hm.</think>\n\n{right}")
        assert not allowed(f"<think>Hm.</think>\n\n{wrong}")


def test_an_answer_by_schema_is_json_after_thoughts_and_calls_stay_possible(pair: tuple[Case, Tokenizer]):
    grammar = response_format_grammar({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})
    assert grammar is not None
    for wanted in (asked(answer=grammar.rule), asked(TOOLS, answer=grammar.rule)):
        for message in answers(pair, wanted, "", 4):
            check_calls(message, wanted)
            if not message.calls:
                jsonschema_rs.validate(SCHEMA, json.loads(message.content))


def test_a_schema_that_cannot_be_held_to_is_an_error_only_where_the_tool_is_strict(
    shared: Path, capsys: pytest.CaptureFixture[str]
):
    one = case("qwen3", shared)
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True, "items": {}}}}
    loose = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert answer_grammar(one.form, asked([loose])) is not None
    strict = {"type": "function", "function": {**loose["function"], "strict": True}}
    with pytest.raises(RequestError, match=r"schema of the tool f has keywords .* uniqueItems"):
        answer_grammar(one.form, asked([strict]))
    hopeless = {"type": "function", "function": {"name": "g", "parameters": {"properties": {"a": {"$ref": "x:y"}}}}}
    grammar = answer_grammar(one.form, asked([hopeless]))
    assert grammar is not None
    assert "x:y" not in grammar.text
    assert "tool g" in capsys.readouterr().err


def test_nothing_asked_is_no_grammar(shared: Path):
    one = case("qwen3", shared)
    assert answer_grammar(one.form, asked()) is None
    assert answer_grammar(one.form, asked(TOOLS, "none")) is None
    assert response_format_grammar(None) is response_format_grammar({"type": "text"}) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "xml"}, "response_format is not understood"),
        ("json", "response_format is not understood"),
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "the response_format has keywords"),
    ],
)
def test_a_response_format_that_is_none_is_refused(value: Any, said: str):
    with pytest.raises(RequestError, match=said):
        response_format_grammar(value)


def test_two_grammars_exclude_each_other():
    with pytest.raises(RequestError, match="schema and regex exclude each other"):
        asked_grammar(schema={}, regex="a")


def test_an_expression_or_a_grammar_can_be_what_is_said_after_a_thought(shared: Path):
    one, tokenizer = case("qwen3", shared), load_tokenizer(shared / "minimind_tokenizer")
    for grammar in (asked_grammar(regex="ja|nein"), asked_grammar(grammar='start: "ja" | no\nno: "nein"')):
        assert grammar is not None
        wanted = replace(asked(), answer=grammar.rule)
        for message in answers((one, tokenizer), wanted, "", 4):
            assert message.content in ("ja", "nein")
