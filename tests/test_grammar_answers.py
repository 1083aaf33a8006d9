"""Answers held to schemas by the engine: of a random model, in batches, with guesses, however they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from option_walk import make_model

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import RequestError
from pellucid.causal_lm.model import CausalLM
from pellucid.executor import Executor
from pellucid.generate import Engine, PromptLookup, Request, Result, generate
from pellucid.grammar.matcher import constrain
from pellucid.grammar.source import Grammar, regex_grammar, schema_grammar
from pellucid.model.executor import TorchExecutor
from pellucid.sampling import SamplingParams
from pellucid.text.tokenizer import Tokenizer

SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 5}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "enum": {"enum": ["one", 2, None, {"three": [3]}, "四 \\ \""]},
    "number": {"type": "number", "minimum": -10, "exclusiveMaximum": 10},
    "integer": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,4}(-[0-9]+)?$", "maxLength": 9},
    "date": {"type": "string", "format": "date"},
    "union": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 1, "maxLength": 3}]},
    "tuple": {"type": "array", "prefixItems": [{"const": 1}, {"type": "boolean"}], "items": False, "minItems": 2},
    "reference": {
        "$defs": {
            "more": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/more"}}, "required": ["next"],
                     "additionalProperties": False},
        },
        "$ref": "#/$defs/node",
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "integer", "minimum": 0, "maximum": 9}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "nested": {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "boolean"}},
                     "required": ["x"], "additionalProperties": False}, "maxItems": 2},
            "deep": {"type": "object", "properties": {"er": {"const": "€"}}, "required": ["er"]},
        },
        "required": ["list"],
        "additionalProperties": False,
    },
}  # fmt: skip
DRAWN = SamplingParams(do_sample=True, temperature=1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "random", 3)


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def executor(model: CausalLM) -> Executor:
    return TorchExecutor(model)


def request(grammar: Grammar, executor: Executor, tokenizer: Tokenizer, seed: int, **more: Any) -> Request:
    ends = more.pop("ends", tokenizer.stop_token_ids)
    constraint = constrain(grammar, tokenizer, executor.config.vocab_size, ends)
    return Request(
        prompt_ids=tokenizer.encode("abcabcabc"),
        max_new_tokens=more.pop("max_new_tokens", 200),
        sampling=SamplingParams(do_sample=True, temperature=1.5, seed=seed),
        stop_token_ids=ends,
        constraint=constraint,
        **more,
    )


def check(result: Result, schema: Any) -> int:
    """Answers that ended by themselves are JSON of the schema; how many there are."""
    whole = [answer for answer in result.answers if answer.finish_reason == "stop"]
    for answer in result.answers:
        assert answer.error is None
    for answer in whole:
        jsonschema_rs.validate(schema, json.loads(answer.text), validate_formats=True)
    return len(whole)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_of_a_random_model_that_ends_is_json_of_its_schema(
    name: str, executor: Executor, tokenizer: Tokenizer
):
    grammar = schema_grammar(SCHEMAS[name])
    engine = Engine(executor, tokenizer)
    results = engine.run([request(grammar, executor, tokenizer, seed, n=2) for seed in range(4)])
    assert sum(check(result, SCHEMAS[name]) for result in results) >= 4


def test_a_company_of_other_schemas_and_free_answers_changes_no_token(executor: Executor, tokenizer: Tokenizer):
    asked = [request(schema_grammar(schema), executor, tokenizer, 7) for schema in SCHEMAS.values()]
    free = Request(prompt_ids=tokenizer.encode("abc"), max_new_tokens=30, sampling=DRAWN)
    together = Engine(executor, tokenizer, max_batch=5).run([*asked, free])
    for one, result, schema in zip(asked, together, SCHEMAS.values(), strict=False):
        check(result, schema)
        alone = Engine(executor, tokenizer).run([one])[0]
        assert alone.token_ids == result.token_ids


def test_guesses_change_no_token_and_some_of_them_are_right(executor: Executor, tokenizer: Tokenizer):
    right = 0
    for name, schema in SCHEMAS.items():
        one = request(schema_grammar(schema), executor, tokenizer, 5)
        guessed = Engine(executor, tokenizer, speculate=PromptLookup(7)).run([one])[0]
        check(guessed, schema)
        assert guessed.token_ids == Engine(executor, tokenizer).run([one])[0].token_ids, name
        right += guessed.answers[0].timings.accepted_tokens
    assert right > 0


def test_a_stop_token_of_the_text_ends_an_answer_only_where_it_is_whole(executor: Executor, tokenizer: Tokenizer):
    brace, digit = (tokenizer.convert_tokens_to_ids(token) for token in ("}", "1"))
    schema = SCHEMAS["object"]
    for seed in range(3):
        result = Engine(executor, tokenizer).run(
            [request(schema_grammar({"type": "integer"}), executor, tokenizer, seed, ends=(digit,))]
        )[0]
        assert check(result, {"type": "integer"}) == (result.answers[0].finish_reason == "stop")
        # no answer can have a brace that is not its end, so none of this schema can be written: said, not hung
        result = Engine(executor, tokenizer).run(
            [request(schema_grammar(schema), executor, tokenizer, seed, ends=(brace,), max_new_tokens=60)]
        )[0]
        assert result.answers[0].finish_reason in ("length", "error")


def test_without_any_end_token_an_answer_ends_when_nothing_can_follow(executor: Executor, tokenizer: Tokenizer):
    one = request(regex_grammar("(ab){3}"), executor, tokenizer, 1, ends=())
    answer = Engine(executor, tokenizer).run([one])[0].answers[0]
    assert (answer.text, answer.finish_reason) == ("ababab", "stop")


def test_an_answer_that_is_cut_short_is_a_beginning(executor: Executor, tokenizer: Tokenizer):
    one = request(regex_grammar("(ab){30}"), executor, tokenizer, 1, max_new_tokens=7)
    answer = Engine(executor, tokenizer).run([one])[0].answers[0]
    assert (answer.text, answer.finish_reason) == ("abababa", "length")


def test_generate_takes_a_schema_an_expression_or_a_grammar(model: CausalLM, tokenizer: Tokenizer):
    ids = tokenizer.encode("abc", return_tensors="pt")
    new = {
        "schema": ({"const": "yes"}, '"yes"'),
        "regex": ("x{4}", "xxxx"),
        "grammar": ('start: "a" b\nb: "b"', "ab"),
    }
    for name, (value, text) in new.items():
        out = model.generate(ids, tokenizer=tokenizer, max_new_tokens=20, **{name: value})
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == text
        results = generate(
            TorchExecutor(model), [[70]], tokenizer=tokenizer, max_new_tokens=20, n=2, sampling=DRAWN, **{name: value}
        )
        assert {answer.text for answer in results[0].answers} == {text}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"schema": {"not": {}}}, "cannot be held to: not"),
        ({"schema": {}, "regex": "a"}, "exclude each other"),
        ({"regex": "a", "num_beams": 2}, "goes with plain answers"),
        ({"regex": "a", "tokenizer": None}, "is about text"),
    ],
)
def test_what_generate_cannot_hold_to_is_refused(
    arguments: dict[str, Any], said: str, model: CausalLM, tokenizer: Tokenizer
):
    with pytest.raises(RequestError, match=said):
        model.generate(np.array([[70, 71]]), max_new_tokens=4, **{"tokenizer": tokenizer, **arguments})


def test_special_tokens_can_stand_in_an_answers_text(executor: Executor, tokenizer: Tokenizer):
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|end|>")}
    grammar = Grammar(f'start: "a" <[{ids["<|user|>"]}]> "b"')
    for skip, text in ((True, "ab"), (False, "a<|user|>b")):
        one = request(grammar, executor, tokenizer, 1, ends=(ids["<|end|>"],), skip_special_tokens=skip)
        assert Engine(executor, tokenizer).run([one])[0].text == text
