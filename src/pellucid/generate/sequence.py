"""``Sequence``: one answer in the making."""

from __future__ import annotations

import time

import numpy as np

from pellucid.executor import StepInput
from pellucid.generate.constraint import allowed
from pellucid.generate.pace import Pace
from pellucid.generate.request import Request
from pellucid.generate.result import Answer, Event, FinishReason, Timings
from pellucid.generate.stop import StopStrings
from pellucid.sampling import GREEDY, SamplingState, TokenLogprobs, logprobs, sample
from pellucid.text.detokenizer import IncrementalDetokenizer, Run


class Sequence:
    """A prompt and the tokens after it, how far the executor has come with them, and what has been told of them.

    ``siblings`` are the other answers to the same prompt, until the prompt has been computed and they part.
    """

    def __init__(
        self, request_id: int, index: int, request: Request, seed: int, detokenizer: IncrementalDetokenizer | None
    ) -> None:
        self.request_id, self.index, self.request = request_id, index, request
        self.siblings: list[Sequence] = []
        self.slot: int | None = None
        self.computed = 0  # tokens of prompt and answer that the slot holds for certain
        self.reused = 0  # of these, what the slot held before
        self.token_ids: list[int] = []
        self._prompt_len = len(request.prompt_ids)
        self._ids = np.array(request.prompt_ids, np.int64)  # and room for the answer's, which grows
        self.restarts = 0
        self.lacks_room = False  # it waits for memory or for places
        self.passed = 0  # times that a later one found room meanwhile
        self.roomy = False  # its slot shall have room for all that may come, from the first
        self.last: Event | None = None  # that ends it
        self.guess: list[int] = []  # the next tokens, perhaps: computed along with the last, and checked
        self.pace = Pace()
        self.state = SamplingState(request.sampling or GREEDY, request.prompt_ids, index, seed)
        self.matcher = None if request.constraint is None else request.constraint.start()
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None if request.prompt_logprobs is None else [None]
        self._pooled: np.ndarray | None = None
        self._detokenizer, self._stops = detokenizer, StopStrings(request.stop or ())
        self._text: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._added = self._started = self._first = self._last = time.perf_counter()

    @property
    def answer(self) -> Answer | None:
        """The whole of it, once it has ended."""
        return None if self.last is None else self.last.answer

    @property
    def waited(self) -> float:
        """Seconds since it was added."""
        return time.perf_counter() - self._added

    @property
    def capacity(self) -> int:
        """Tokens that the slot must hold."""
        return len(self.request.prompt_ids) + self.request.new_tokens

    @property
    def all_ids(self) -> np.ndarray:
        """The prompt's tokens and the answer's, int64."""
        return self._ids[: self._prompt_len + len(self.token_ids)]

    @property
    def order(self) -> tuple[int, int, int]:
        """Who comes first: by priority, then as they were added."""
        return self.request.priority, self.request_id, self.index

    @property
    def in_prefill(self) -> bool:
        """Whether tokens are to be computed whose successors are known: the prompt's, and after ``restart`` all but the
        last.
        """
        return self.computed < self._prompt_len + max(len(self.token_ids) - 1, 0)

    @property
    def ahead(self) -> int:
        """Tokens of the prefill that are left."""
        return self._prompt_len + max(len(self.token_ids) - 1, 0) - self.computed

    @property
    def room_for_guesses(self) -> int:
        """Guesses that could still become tokens: a right one is followed by one more."""
        return 0 if self.in_prefill else self.request.new_tokens - len(self.token_ids) - 1

    @property
    def needs_logits(self) -> bool:
        """Whether the choice takes a whole row of logits; else its argmax is enough."""
        asked = self.request.logprobs is not None or self.prompt_logprobs is not None or self.matcher is not None
        return asked or not self.state.params.plain_greedy

    @property
    def whole(self) -> bool:
        """Whether every place of the prompt is wanted, so that none can be reused."""
        scores = self.prompt_logprobs
        unscored = scores is not None and len(scores) < len(self.request.prompt_ids)
        return unscored or self.request.pooling == "mean"

    def guess_ahead(self, token_ids: list[int]) -> None:
        """Guesses at the next tokens, as far as they may follow one another."""
        self.guess = token_ids if self.matcher is None else token_ids[: self.matcher.valid_prefix(token_ids)]

    def next_input(self, most: int) -> StepInput:
        """What to compute next: up to ``most`` tokens of the prompt, or of the answer as far as it is known, or the
        last new token and a guess at those after it.

        After ``restart`` the answer's tokens are computed as they were before, each as in a step of its own.
        """
        assert self.slot is not None
        if not self.in_prefill:
            ids = [self.token_ids[-1], *self.guess]
            return StepInput(self.slot, ids, range(len(ids)), one_by_one=bool(self.guess))
        prompt = self.request.prompt_ids
        if self.computed < len(prompt):
            tokens = prompt[self.computed : self.computed + most]
            first_time = not self.token_ids and self.computed + len(tokens) == len(prompt)
            last = (len(tokens) - 1,) if first_time else ()
            return StepInput(self.slot, tokens, range(len(tokens)) if self.whole else last)
        known = self.all_ids[self.computed : min(self.computed + most, len(self.all_ids) - 1)]
        return StepInput(self.slot, known.tolist(), (), one_by_one=True)

    def restart(self) -> None:
        """Nothing is computed any more; what has been chosen and told stays."""
        self.slot, self.computed, self.guess, self._pooled = None, 0, [], None
        if self.whole and self.prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        self.restarts += 1

    def start(self, slot: int, reused: int) -> None:
        """Begin in a slot that holds the prompt's first ``reused`` tokens."""
        self.slot, self.computed = slot, reused
        if not self.restarts:
            self.reused, self._started = reused, time.perf_counter()

    def branch(self, prefilled: Sequence, slot: int) -> None:
        """Go on from a sibling's prompt, copied to ``slot``."""
        self.slot, self.computed, self.reused, self._started = (
            slot,
            prefilled.computed,
            prefilled.reused,
            prefilled._started,
        )

    def choose(self, logits: np.ndarray) -> Event:
        """Take the next token from a row of logits. Log-probabilities are of these, before any rule."""
        token = sample(logits if self.matcher is None else allowed(logits, self.matcher.mask()), self.state)
        count = self.request.logprobs
        return self.accept(token, None if count is None else logprobs(logits, token, count))

    def accept(self, token: int, token_logprobs: TokenLogprobs | None = None) -> Event:
        """The answer continues with ``token``, and may end with it."""
        self._last = time.perf_counter()
        if not self.token_ids:
            self._first = self._last
        place = self._prompt_len + len(self.token_ids)
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.empty(len(self._ids) + 64, np.int64)))
        self._ids[place] = token
        self.token_ids.append(token)
        self.state.append(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        if token_logprobs is not None:
            self._logprobs.append(token_logprobs)
        assert self.request.stop_token_ids is not None
        reason, stopped_by = None, None
        if token in self.request.stop_token_ids:
            text, reason, stopped_by = self._end(token) + self._rest(), "stop", token
        else:
            text = self._text_of(token)
            if self._stops.match is None and self.matcher is not None and self.matcher.finished:
                text, reason = text + self._rest(), "stop"
            elif self._stops.match is None and len(self.token_ids) == self.request.max_new_tokens:
                text, reason = text + self._rest(), "length"
        if self._stops.match is not None:
            reason, stopped_by = "stop", self._stops.match
        return self._event(token, text, token_logprobs, reason, stopped_by)

    def score(self, rows: np.ndarray) -> None:
        """Rows of logits of the next places of the prompt, (N, V): each tells of the token after it."""
        assert self.prompt_logprobs is not None
        assert self.request.prompt_logprobs is not None
        after = self.request.prompt_ids[len(self.prompt_logprobs) :]
        told = (logprobs(row, token, self.request.prompt_logprobs) for row, token in zip(rows, after, strict=False))
        self.prompt_logprobs += told

    def pool(self, states: np.ndarray) -> Event | None:
        """Hidden states of the wanted places, (N, D); the end, where these were the last."""
        total = states.sum(0, dtype=np.float64)
        self._pooled = total if self._pooled is None else self._pooled + total
        if self.in_prefill:
            return None
        self._first = self._last = time.perf_counter()
        return self._event(None, "", None, "stop")

    def abandon(self, reason: FinishReason, error: Exception | None = None) -> Event:
        """End without a further token."""
        return self._event(None, "" if error else self._rest(), None, reason, error=error)

    def _text_of(self, token: int) -> str:
        """What a token lets be shown."""
        if self._detokenizer is None:
            return ""
        if not self._stops.stops:
            return self._detokenizer.push(token)
        return self._stops.push(self._detokenizer.push_runs(token))

    def _end(self, token: int) -> str:
        """What an end token lets be shown: it has no text of its own, but may complete a stop string."""
        special = self._stops.stops and self._detokenizer is not None and self._detokenizer.skips(token)
        return self._text_of(token) if special else ""

    def _rest(self) -> str:
        """What detokenizer and stop strings still hold back."""
        text = self._stops.push([Run(self._detokenizer.flush(), shown=True)]) if self._detokenizer else ""
        return text + self._stops.flush()

    def _event(
        self,
        token: int | None,
        text: str,
        token_logprobs: TokenLogprobs | None,
        reason: FinishReason | None,
        stopped_by: int | str | None = None,
        error: Exception | None = None,
    ) -> Event:
        self._text.append(text)
        scores = None if self.prompt_logprobs is None else tuple(self.prompt_logprobs)
        answer = None
        if reason is not None:
            answer = Answer(
                index=self.index,
                token_ids=tuple(self.token_ids),
                text="".join(self._text),
                finish_reason=reason,
                stopped_by=stopped_by,
                logprobs=None if self.request.logprobs is None else tuple(self._logprobs),
                seed=self.state.seed,
                timings=self._timings(),
                error=error,
                prompt_logprobs=scores,
                embedding=self._embedding() if reason == "stop" else None,
            )
        event = Event(
            request_id=self.request_id,
            index=self.index,
            token_id=token,
            text=text,
            logprobs=token_logprobs,
            prompt_logprobs=scores if token is not None and len(self.token_ids) == 1 else None,
            answer=answer,
        )
        if answer is not None:
            self.last = event
        return event

    def _embedding(self) -> np.ndarray | None:
        if self._pooled is None:
            return None
        return (self._pooled / (len(self.request.prompt_ids) if self.request.pooling == "mean" else 1)).astype(
            np.float32
        )

    def _timings(self) -> Timings:
        return Timings(
            prompt_tokens=len(self.request.prompt_ids),
            new_tokens=len(self.token_ids),
            reused_tokens=self.reused,
            guessed_tokens=self.pace.guessed,
            accepted_tokens=self.pace.accepted,
            queued=self._started - self._added,
            prefill=self._first - self._started if self.token_ids else 0.0,
            decode=self._last - self._first if self.token_ids else 0.0,
        )
