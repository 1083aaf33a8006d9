"""What OpenAI's answers are made of: usage, timings, log-probabilities."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pellucid.base.version import __version__
from pellucid.serve.http.schema import nullable, number, record, whole
from pellucid.serve.work.spelling import spelled

if TYPE_CHECKING:
    from pellucid.generate.result import Timings
    from pellucid.sampling import TokenLogprobs
    from pellucid.serve.work.answer import Answering, Usage
    from pellucid.text.tokenizer import Tokenizer

FINGERPRINT = f"pellucid-{__version__}"
USAGE = record(
    {
        "prompt_tokens": whole(0),
        "completion_tokens": whole(0),
        "total_tokens": whole(0),
        "prompt_tokens_details": record({"cached_tokens": whole(0)}),
        "completion_tokens_details": record({"reasoning_tokens": whole(0)}),
    },
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
)
TIMINGS = record({"prompt_n": whole(0), "prompt_ms": number(0), "predicted_n": whole(0), "predicted_ms": number(0)})
FINISH = nullable({"enum": ["stop", "length", "tool_calls", "content_filter"]})


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def timings_json(timings: Timings | None) -> dict[str, Any] | None:
    """llama-server's words for where the time went; of the first choice."""
    if timings is None:
        return None
    computed = timings.prompt_tokens - timings.reused_tokens
    return {
        "cache_n": timings.reused_tokens,
        "prompt_n": computed,
        "prompt_ms": round(timings.prefill * 1e3, 3),
        "prompt_per_token_ms": round(timings.prefill * 1e3 / max(computed, 1), 3),
        "prompt_per_second": round(timings.prefill_tokens_per_second, 2),
        "predicted_n": timings.new_tokens,
        "predicted_ms": round(timings.decode * 1e3, 3),
        "predicted_per_token_ms": round(timings.decode * 1e3 / max(timings.new_tokens - 1, 1), 3),
        "predicted_per_second": round(timings.decode_tokens_per_second, 2),
        "queued_ms": round(timings.queued * 1e3, 3),
        "draft_n": timings.guessed_tokens,
        "draft_n_accepted": timings.accepted_tokens,
    }


def head(prefix: str, kind: str, answering: Answering) -> dict[str, Any]:
    """What an answer, and each chunk of it, begins with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": answering.created,
        "model": answering.model.name,
        "system_fingerprint": FINGERPRINT,
    }


def ending(answering: Answering) -> dict[str, Any]:
    """What a whole answer, or a stream's last chunk, holds beside its choices."""
    return {"usage": usage_json(answering.usage), "timings": timings_json(answering.timings)}


def token_json(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    """A part of a character reads as U+FFFD, and its bytes are told: those of an answer's tokens make up its text."""
    data = spelled(tokenizer, token_id)
    text = data.decode("utf-8", "replace")
    return {"id": token_id, "token": text, "logprob": max(logprob, -9999.0), "bytes": list(data)}


def logprobs_json(tokenizer: Tokenizer, tokens: list[TokenLogprobs]) -> list[dict[str, Any]]:
    return [
        {
            **token_json(tokenizer, one.token_id, one.logprob),
            "top_logprobs": [token_json(tokenizer, token, logprob) for token, logprob in one.top],
        }
        for one in tokens
    ]
