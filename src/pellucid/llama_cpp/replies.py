"""Answers as llama-cpp-python, and OpenAI's API of old, write them: dicts of a completion, and of its pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pellucid.generate.result import Answer, Event
from pellucid.sampling import TokenLogprobs

REASONS = {"stop": "stop", "length": "length", "cancelled": "stop"}


@dataclass(frozen=True)
class Reply:
    """One call's: of a text (``chat`` False) or of a conversation. ``before`` is what an echo puts first."""

    model: str
    chat: bool
    prompt_tokens: int
    spelled: Any  # id → its text
    before: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer, done."""
        new = len(answer.token_ids)
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.prompt_tokens + new,
        }
        said = {"role": "assistant", "content": answer.text}
        content = {"message": said} if self.chat else {"text": self.before + answer.text}
        choice = {**content, "index": 0, "logprobs": self._logprobs(answer.logprobs)}
        kind = "chat.completion" if self.chat else "text_completion"
        return self._with(kind, choice | {"finish_reason": REASONS[answer.finish_reason]}) | {"usage": usage}

    def pieces(self, events: Iterable[Event]) -> Iterator[dict[str, Any]]:
        """The answer while it grows. Raises: what went wrong in the engine."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        if self.chat:
            yield self._with(kind, self._piece({"role": "assistant"}, None))
        elif self.before:
            yield self._with(kind, self._piece(self.before, None))
        for event in events:
            if event.answer is not None and event.answer.error is not None:
                raise event.answer.error
            if event.text:
                listed = None if event.logprobs is None else self._logprobs((event.logprobs,))
                said = {"content": event.text} if self.chat else event.text
                yield self._with(kind, self._piece(said, None) | {"logprobs": listed})
            if event.answer is not None:
                yield self._with(kind, self._piece({} if self.chat else "", REASONS[event.answer.finish_reason]))

    def _piece(self, said: Any, reason: str | None) -> dict[str, Any]:
        name = "delta" if self.chat else "text"
        return {name: said, "index": 0, "logprobs": None, "finish_reason": reason}

    def _with(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        before = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{before}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
        }

    def _logprobs(self, each: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
        if each is None:
            return None
        if self.chat:
            return {"content": [self._chat_logprob(one) for one in each], "refusal": None}
        texts = [self.spelled(one.token_id) for one in each]
        places = [len(self.before) + sum(map(len, texts[:number])) for number in range(len(texts))]
        return {
            "tokens": texts,
            "text_offset": places,
            "token_logprobs": [one.logprob for one in each],
            "top_logprobs": [{self.spelled(token): value for token, value in one.top} for one in each],
        }

    def _chat_logprob(self, one: TokenLogprobs) -> dict[str, Any]:
        def named(token: int, value: float) -> dict[str, Any]:
            text = self.spelled(token)
            return {"token": text, "logprob": value, "bytes": list(text.encode())}

        return named(one.token_id, one.logprob) | {"top_logprobs": [named(*pair) for pair in one.top]}
