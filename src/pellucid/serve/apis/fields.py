"""Fields that OpenAI's APIs share, and those that vLLM's and llama-server's clients add to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.serve.http.errors import ApiError, invalid
from pellucid.serve.http.schema import ANYTHING, Schema, any_of, flag, list_of, nullable, number, record, text, whole
from pellucid.serve.work.ask import stops

MOST_STOPS = 64
MOST_CHOICES = 128
MOST_LOGPROBS = 20  # OpenAI's bound

STREAM_OPTIONS = record({"include_usage": nullable(flag()), "include_obfuscation": nullable(flag())}, more=False)

# How tokens are chosen; the first half is OpenAI's, the second what vLLM and llama-server take beside it.
SAMPLING: dict[str, Schema] = {
    "temperature": nullable(number(0, 2)),
    "top_p": nullable(number(0, 1)),
    "frequency_penalty": nullable(number(-2, 2)),
    "presence_penalty": nullable(number(-2, 2)),
    "seed": nullable(whole(-(2**63), 2**64 - 1)),
    "stop": nullable(any_of(text(minLength=1), list_of(text(minLength=1), maxItems=MOST_STOPS))),
    "logit_bias": nullable(record({}, more=number(-100, 100))),
    "top_k": nullable(whole(-1)),
    "min_p": nullable(number(0, 1)),
    "repetition_penalty": nullable(number(0.01, 100)),
    "repeat_penalty": nullable(number(0.01, 100)),
    "ignore_eos": nullable(flag()),
}
# What says nothing about the answer, and is taken and let be.
HARMLESS: dict[str, Schema] = {
    "user": nullable(text()),
    "metadata": ANYTHING,
    "store": nullable(flag()),
    "service_tier": ANYTHING,
    "safety_identifier": ANYTHING,
    "prompt_cache_key": ANYTHING,
    "prompt_cache_retention": ANYTHING,
    "prompt_cache_options": ANYTHING,
    "cache_prompt": ANYTHING,  # llama-server's: prefixes are always reused
    "id_slot": ANYTHING,
    "timings_per_token": ANYTHING,
    "prediction": ANYTHING,  # a guess at the answer, which changes how soon it comes and not what it is
}


def sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that a body has. Raises: ApiError for two that say different things."""
    asked = {
        name: body[name]
        for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty")
        if body.get(name) is not None
    }
    if (top_k := body.get("top_k")) is not None:
        asked["top_k"] = max(top_k, 0)  # −1 is vLLM's word for all
    if (penalty := either(body, "repetition_penalty", "repeat_penalty")) is not None:
        asked["repetition_penalty"] = penalty
    return asked


def choosing(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``Ask`` that say how tokens are chosen."""
    seed = body.get("seed")
    return {
        "sampling": sampling(body),
        "seed": None if seed is None or seed == -1 else seed % 2**64,  # −1 is llama-server's word for any
        "stop": stops(body.get("stop")),
        "logit_bias": logit_bias(body.get("logit_bias")),
        "ignore_eos": bool(body.get("ignore_eos")),
    }


def logit_bias(value: Mapping[str, float] | None) -> dict[int, float]:
    """OpenAI's: token id as a string → what is added to its logit; −100 is as good as a ban."""
    biases: dict[int, float] = {}
    for token, bias in (value or {}).items():
        if not (token.isascii() and token.isdigit()) or len(token) > 10:
            raise invalid(f"logit_bias: {token[:40]!r} is no token id", "logit_bias")
        biases[int(token)] = float(bias)
    return biases


# What an answer must be, beside OpenAI's response_format: vLLM's word for it, and llama-server's two.
FORMS: dict[str, Schema] = {
    "structured_outputs": nullable(
        record(
            {
                "json": nullable(any_of(record({}), text())),
                "regex": nullable(text()),
                "choice": nullable(list_of(text(), minItems=1)),
                "grammar": nullable(text()),
            },
            more=False,
        )
    ),
    "json_schema": nullable(record({})),
    "grammar": nullable(text()),
}


def form(body: Mapping[str, Any], response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the answer must be, of whichever field says so. Raises: ApiError where several do."""
    forms: dict[str, dict[str, Any]] = {}
    kind = "text" if response_format is None else response_format["type"]
    if response_format is not None and kind != "text":
        schema = {"type": "object"} if kind == "json_object" else response_format["json_schema"].get("schema")
        forms["response_format"] = {"json_schema": {} if schema is None else schema}
    for name in ("json_schema", "grammar"):
        if body.get(name) is not None:
            forms[name] = {name: body[name]}
    for name, value in (body.get("structured_outputs") or {}).items():
        if value is not None:
            choices = {"regex": "|".join(map(_quoted, value))} if name == "choice" else None
            forms[f"structured_outputs.{name}"] = choices or {"json_schema" if name == "json" else name: value}
    if len(forms) > 1:
        raise invalid(f"{' and '.join(forms)}: an answer has one form; send one of them", list(forms)[1])
    return next(iter(forms.values()), None)


def _quoted(text: str) -> str:
    """A text as a regular expression that matches it alone."""
    return "".join(f"\\{sign}" if not (sign.isalnum() or sign.isspace() or ord(sign) > 127) else sign for sign in text)


def either(body: Mapping[str, Any], *names: str) -> Any:
    """The value of a field that has several names. Raises: ApiError where two are used and differ."""
    values = {name: body[name] for name in names if body.get(name) is not None}
    if len(set(values.values())) > 1:
        one, other = list(values)[:2]
        raise ApiError(400, f"{one} and {other} say different things; send one of them", param=other)
    return next(iter(values.values()), None)


def described(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    """The table of a body that refuses what it does not know, as OpenAI does."""
    return record(properties, *required, more=False)
