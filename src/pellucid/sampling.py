"""From logits to a token, in numpy: an ordered chain of small pure functions, and one random generator a request.

The order is the field's (transformers' processors and vLLM's agree on it):

    logit bias → repetition penalty → frequency and presence penalties → temperature → top-k → top-p → min-p → draw

Up to temperature a rule is ``(logits, state) -> logits``, and returns its argument where it is switched off. After it a
rule is a filter, ``(logits, state) -> places to keep``, ascending, or None for all; it sees what the filter before it
left. A chain must be cheap beside a 3 ms token at a vocabulary of 152,000: no sort of the vocabulary, few arrays of its
size, and penalties that look only at ids which the request has seen. Greedy choice is the lowest id among the largest
logits; a draw uses one uniform number of the request's own generator. So what a request draws never depends on who is
in the batch with it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field

import numpy as np

from pellucid.base.errors import NotFiniteError, RequestError
from pellucid.base.typed import is_real, shown


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. The defaults draw from the model's own distribution.

    Names and ranges are those of transformers' and OpenAI's interfaces. ``do_sample=False`` or ``temperature=0`` is
    greedy.
    """

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0  # keep the k largest, and what equals the k-th; 0: all
    top_p: float = 1.0  # keep the fewest whose probabilities reach p (nucleus sampling, Holtzman et al. 2019)
    min_p: float = 0.0  # keep what is at least min_p as probable as the most probable
    # of every id in prompt and answer: logits above 0 are divided by it, below 0 multiplied (Keskar et al. 2019)
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0  # subtracted for each time that the answer has an id
    presence_penalty: float = 0.0  # subtracted once if the answer has the id
    logit_bias: Mapping[int, float] = field(
        default_factory=dict, hash=False
    )  # id -> added to its logit; −inf forbids it
    seed: int | None = None  # None: a fresh one, reported with the answer

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0, math.inf, "use do_sample=False for the most probable token")
        _check_range("top_p", self.top_p, 0, 1)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repetition_penalty", self.repetition_penalty, math.nextafter(0, 1), math.inf, "1.0 is no penalty")
        _check_range("frequency_penalty", self.frequency_penalty, -2, 2)
        _check_range("presence_penalty", self.presence_penalty, -2, 2)
        _check_whole("top_k", self.top_k, "0 keeps all tokens")
        if self.seed is not None:
            _check_whole("seed", self.seed, "None takes a fresh one")
        for token, bias in self.logit_bias.items():
            _check_whole("logit_bias", token, "its keys are token ids")
            if not is_real(bias) and bias != -math.inf:
                raise RequestError(
                    f"logit_bias of token {token} is out of range",
                    expected="a number below infinity",
                    received=shown(bias),
                )

    @property
    def greedy(self) -> bool:
        return not self.do_sample or self.temperature < 1e-5  # as in vLLM: division by less would overflow

    @property
    def penalized(self) -> bool:
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def plain_greedy(self) -> bool:
        """Whether the choice is the argmax of the logits as they are, so that nothing but its index has to leave the
        device.
        """
        return self.greedy and not self.penalized and not self.logit_bias


def _check_range(name: str, value: float, low: float, high: float, remedy: str | None = None) -> None:
    if not is_real(value) or not low <= value <= high:
        bounds = (
            f"a number from {low:g} to {high:g}"
            if high < math.inf
            else "a positive number"
            if low > 0
            else "a number of at least 0"
        )
        raise RequestError(f"{name} is out of range", expected=bounds, received=shown(value), remedy=remedy)


def _check_whole(name: str, value: int, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RequestError(
            f"{name} is out of range", expected="a whole number of at least 0", received=shown(value), remedy=remedy
        )


GREEDY = SamplingParams(do_sample=False)


class TokenCounts:
    """The distinct ids of a request, and how often its answer has each; kept up token by token."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        distinct = np.unique(np.asarray(prompt_ids, np.int64))
        self._ids = np.concatenate((distinct, np.zeros(64, np.int64)))
        self._counts = np.zeros(len(self._ids), np.float32)
        self._place = {token: place for place, token in enumerate(distinct.tolist())}

    @property
    def ids(self) -> np.ndarray:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> np.ndarray:
        """Times in the answer, in the order of ``ids``; 0 for what only the prompt has."""
        return self._counts[: len(self._place)]

    def add(self, token: int) -> None:
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids, self._counts = (
                np.resize(self._ids, 2 * place),
                np.concatenate((self._counts, np.zeros(place, np.float32))),
            )
        self._ids[place] = token
        self._counts[place] += 1

    def copy(self) -> TokenCounts:
        other = TokenCounts(())
        other._ids, other._counts, other._place = self._ids.copy(), self._counts.copy(), self._place.copy()
        return other


class SamplingState:
    """What one answer's choices depend on beside the logits: its parameters, its tokens so far, its random numbers.

    Answer ``index`` of several to one prompt draws from its own stream of the same ``seed``; answer 0 is what a single
    answer would be.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int] = (), index: int = 0, seed: int | None = None
    ) -> None:
        self.params = params
        self.counts = TokenCounts(prompt_ids) if params.penalized else None
        self.seed = fresh_seed(params) if seed is None else seed
        self.random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(index,))))

    def append(self, token: int) -> None:
        """The answer continues with ``token``."""
        if self.counts is not None:
            self.counts.add(token)

    def ahead(self) -> SamplingState:
        """A copy that may choose tokens ahead, with the random numbers that this one will use for them; this one stays
        where it is.
        """
        other = copy(self)
        other.counts = None if self.counts is None else self.counts.copy()
        other.random = deepcopy(self.random)
        return other


def fresh_seed(params: SamplingParams) -> int:
    """The seed asked for, or a new one; below 2⁵³, so that JSON carries it exactly."""
    return secrets.randbits(53) if params.seed is None else params.seed


# --- the rules, in the order of the chain; logits are float32 of shape (V,), or (n,) where a filter left n ---

Rule = Callable[[np.ndarray, SamplingState], np.ndarray]
Filter = Callable[[np.ndarray, SamplingState], np.ndarray | None]


def apply_logit_bias(logits: np.ndarray, state: SamplingState) -> np.ndarray:
    bias = state.params.logit_bias
    if not bias:
        return logits
    biased = logits.copy()
    biased[np.fromiter(bias, np.int64)] += np.fromiter(bias.values(), np.float32)
    return biased


def apply_repetition_penalty(logits: np.ndarray, state: SamplingState) -> np.ndarray:
    penalty = np.float32(state.params.repetition_penalty)
    if penalty == 1 or state.counts is None:
        return logits
    penalized, ids = logits.copy(), state.counts.ids
    seen = logits[ids]
    penalized[ids] = np.where(seen < 0, seen * penalty, seen / penalty)
    return penalized


def apply_frequency_and_presence_penalties(logits: np.ndarray, state: SamplingState) -> np.ndarray:
    """logit − count · frequency_penalty − [count > 0] · presence_penalty, counting the answer's tokens. Source: OpenAI
    API reference.
    """
    frequency, presence = np.float32(state.params.frequency_penalty), np.float32(state.params.presence_penalty)
    if (frequency == 0 and presence == 0) or state.counts is None:
        return logits
    penalized, counts = logits.copy(), state.counts.counts
    penalized[state.counts.ids] -= counts * frequency + (counts > 0) * presence
    return penalized


def apply_temperature(logits: np.ndarray, state: SamplingState) -> np.ndarray:
    return logits if state.params.temperature == 1 else logits / np.float32(state.params.temperature)


def keep_top_k(logits: np.ndarray, state: SamplingState) -> np.ndarray | None:
    k = state.params.top_k
    return None if k == 0 or k >= len(logits) else largest(logits, k)


def keep_top_p(logits: np.ndarray, state: SamplingState) -> np.ndarray | None:
    """Keep a token while those more probable than it have less than ``top_p`` together; among equals the lower id comes
    first.
    """
    p = state.params.top_p
    if p == 1:
        return None
    weights = _weights(logits)
    total = float(_group_sums(weights).sum())
    needed = p * total
    places = np.flatnonzero(weights >= 1e-3)  # mostly enough of them
    if weights[places].sum(dtype=np.float64) < needed:
        places = np.flatnonzero(
            weights >= (1 - p) * total / len(logits)
        )  # all less probable ones have under 1 − p together
    values, weights = logits[places], weights[places]
    # The vocabulary is not sorted: in bins of a sixteenth of a nat, most probable first, only the bin in which p is
    # reached is.
    bins = np.minimum((values.max() - values) * 16, 4095).astype(np.intp)
    mass = np.bincount(bins, weights).cumsum()
    last = min(int(np.searchsorted(mass, needed)), len(mass) - 1)
    inside = np.flatnonzero(bins == last)
    inside = inside[np.argsort(-values[inside], kind="stable")]
    reached = weights[inside].cumsum(dtype=np.float64) + (mass[last - 1] if last else 0.0)
    kept = bins < last
    kept[inside[: int(np.searchsorted(reached, needed)) + 1]] = True
    return places[kept]


def keep_min_p(logits: np.ndarray, state: SamplingState) -> np.ndarray | None:
    """Keep p ≥ min_p · max p, which is logit ≥ max logit + ln min_p. Source: Nguyen et al. 2024."""
    if state.params.min_p == 0:
        return None
    return np.flatnonzero(logits >= logits.max() + np.float32(math.log(state.params.min_p)))


PENALTIES: tuple[Rule, ...] = (apply_logit_bias, apply_repetition_penalty, apply_frequency_and_presence_penalties)
FILTERS: tuple[Filter, ...] = (keep_top_k, keep_top_p, keep_min_p)


def sample(logits: np.ndarray, state: SamplingState) -> int:
    """The next token for one row of logits, (V,). The caller appends it to the state.

    Raises: NotFiniteError where a logit is not a number, RequestError where ``logit_bias`` leaves no token.
    """
    return choose(penalized(logits, state), state)


def penalized(logits: np.ndarray, state: SamplingState) -> np.ndarray:
    """The logits after bias and penalties."""
    for rule in PENALTIES:
        logits = rule(logits, state)
    return logits


def warped(logits: np.ndarray, state: SamplingState) -> np.ndarray:
    """Penalized logits as the draw sees them, (V,): over the temperature, −∞ where a filter left a token out."""
    if state.params.greedy:
        return logits
    kept, ids = _filtered(logits, state)
    if ids is None:
        return kept
    whole = np.full(len(logits), -np.inf, np.float32)
    whole[ids] = kept
    return whole


def choose(logits: np.ndarray, state: SamplingState) -> int:
    """A token by its penalized logits: the most probable, or a draw."""
    best = int(logits.argmax())  # numpy takes the first among equals, and a NaN before any number
    if not math.isfinite(logits[best]):
        if logits[best] == -math.inf:
            raise RequestError("no token is left to choose", remedy="logit_bias forbids all that might be")
        remedy = "the weights are damaged, or too large for this dtype; try dtype='float32'"
        raise NotFiniteError("the model's logits are not finite", received=float(logits[best]), remedy=remedy)
    if state.params.greedy:
        return best
    logits, ids = _filtered(logits, state)
    drawn = _draw(logits, state.random)
    return drawn if ids is None else int(ids[drawn])


def _filtered(logits: np.ndarray, state: SamplingState) -> tuple[np.ndarray, np.ndarray | None]:
    """What the filters leave of the logits over the temperature, and the ids of it; None where that is all."""
    logits, ids = apply_temperature(logits, state), None
    for keep in FILTERS:
        places = keep(logits, state)
        if places is not None:
            logits, ids = logits[places], places if ids is None else ids[places]
    return logits, ids


GROUP = 256  # places whose weights are summed by themselves


def _weights(logits: np.ndarray) -> np.ndarray:
    """e^(logit − largest logit): probabilities, but for a factor."""
    weights = logits - logits.max()
    return np.exp(weights, out=weights)


def _draw(logits: np.ndarray, random: np.random.Generator) -> int:
    """A place with probability softmax(logits), by inversion: the first at which the summed weights pass a uniform
    share of their total.

    First the group of ``GROUP`` places, then the place in it: a running sum over all of them takes five times as long.
    """
    weights = _weights(logits)
    mass = _group_sums(weights).cumsum()
    share = random.random() * mass[-1]
    group = _first_beyond(mass, share)
    inside = weights[group * GROUP : (group + 1) * GROUP].cumsum(dtype=np.float64)
    return group * GROUP + _first_beyond(inside, share - (mass[group - 1] if group else 0.0))


def _group_sums(weights: np.ndarray) -> np.ndarray:
    """Sums of ``GROUP`` places each, the last of what is left, as float64."""
    whole = len(weights) // GROUP * GROUP
    sums = weights[:whole].reshape(-1, GROUP).sum(1)
    return (
        np.append(sums, weights[whole:].sum()).astype(np.float64) if whole < len(weights) else sums.astype(np.float64)
    )


def _first_beyond(sums: np.ndarray, share: float) -> int:
    """The first place whose running sum exceeds ``share``, so never one of weight 0; rounding may put ``share`` at the
    end, and no further.
    """
    return int(np.searchsorted(sums, min(share, np.nextafter(sums[-1], 0)), side="right"))


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places, ascending, of the ``count`` largest values and of all that equal the least of them.

    Exact, and some twenty times as fast as a partition of the whole: of the maxima of disjoint groups, ``count`` reach
    the count-th largest maximum, so the value sought is no less, and few values are that large.
    """
    groups = len(values) // 64
    if count <= groups:
        maxima = values[: 64 * groups].reshape(64, groups).max(0)
        candidates = np.flatnonzero(values >= np.partition(maxima, groups - count)[groups - count])
    else:
        candidates = np.arange(len(values))
    among = values[candidates]
    return candidates[among >= np.partition(among, len(among) - count)[len(among) - count]]


@dataclass(frozen=True)
class TokenLogprobs:
    """The natural logarithm of a chosen token's probability, and of the most probable tokens', best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprobs(logits: np.ndarray, token: int, count: int) -> TokenLogprobs:
    """Log-probabilities of ``token`` and of the ``count`` most probable, under the model's own distribution.

    That is, of the logits before bias, penalties and temperature, as OpenAI and vLLM report them; a token that the
    rules chose need not be among the top.
    """
    peak = logits.max()
    total = float(peak) + math.log(_group_sums(_weights(logits)).sum())
    head = largest(logits, min(count, len(logits))) if count else np.empty(0, np.int64)
    head = head[np.argsort(-logits[head], kind="stable")][:count]
    return TokenLogprobs(token, float(logits[token]) - total, tuple((int(i), float(logits[i]) - total) for i in head))
