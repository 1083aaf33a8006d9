"""What a model has done, in numbers: for ``/metrics`` in Prometheus' words, and for the time to come again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pellucid.generate.result import Event

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How many were at most so large. Source: Prometheus, exposition formats."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def lines(self, name: str, labels: str) -> Iterable[str]:
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self.sum:.6f}"
        yield f"{name}_count{{{labels}}} {total}"


class Metrics:
    """One model's. Written by its engine's thread alone, read by anybody: each number by itself is whole."""

    def __init__(self) -> None:
        self.prompt_tokens = self.reused_tokens = self.new_tokens = self.guessed_tokens = self.accepted_tokens = 0
        self.steps = self.failures = self.restarts = 0
        self.answers: dict[str, int] = {}  # by how they ended
        self.first_token, self.per_token, self.whole, self.step_time = (Histogram() for _ in range(4))
        self.seconds_per_answer = 1.0  # lately

    def step(self, seconds: float) -> None:
        self.steps += 1
        self.step_time.add(seconds)

    def count(self, event: Event) -> None:
        self.new_tokens += event.token_id is not None
        if (answer := event.answer) is None:
            return
        timings = answer.timings
        self.answers[answer.finish_reason] = self.answers.get(answer.finish_reason, 0) + 1
        if answer.index == 0:
            self.prompt_tokens += timings.prompt_tokens
            self.reused_tokens += timings.reused_tokens
        self.guessed_tokens += timings.guessed_tokens
        self.accepted_tokens += timings.accepted_tokens
        if not answer.token_ids:
            return
        self.first_token.add(timings.time_to_first_token)
        if timings.new_tokens > 1:
            self.per_token.add(timings.decode / (timings.new_tokens - 1), timings.new_tokens - 1)
        whole = timings.time_to_first_token + timings.decode
        self.whole.add(whole)
        self.seconds_per_answer += 0.1 * (whole - self.seconds_per_answer)


_COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "reused_tokens": "Of these, those that were computed for an earlier request.",
    "new_tokens": "Tokens of answers.",
    "guessed_tokens": "Tokens computed ahead.",
    "accepted_tokens": "Of these, those that were right.",
    "steps": "Runs of the model.",
    "failures": "Steps that failed.",
    "restarts": "Times that the model was loaded anew after failures.",
}
_HISTOGRAMS = {
    "first_token": ("time_to_first_token_seconds", "From a request's arrival in line to its first token."),
    "per_token": ("time_per_token_seconds", "Between an answer's tokens, as its mean."),
    "whole": ("answer_seconds", "From a request's arrival in line to its last token."),
    "step_time": ("step_seconds", "One run of the model."),
}


def exposition(models: Mapping[str, tuple[Metrics, int, int]]) -> str:
    """All models in Prometheus' text format: name → (metrics, answers that are being written, that wait)."""
    lines: list[str] = []

    def family(name: str, kind: str, help: str) -> None:
        lines.extend((f"# HELP pellucid_{name} {help}", f"# TYPE pellucid_{name} {kind}"))

    labels = {name: f'model="{_escaped(name)}"' for name in models}
    for field, help in _COUNTERS.items():
        family(f"{field}_total", "counter", help)
        lines += [f"pellucid_{field}_total{{{labels[name]}}} {getattr(one[0], field)}" for name, one in models.items()]
    family("answers_total", "counter", "Answers that ended, by why.")
    for name, (metrics, _, _) in models.items():
        lines += [
            f'pellucid_answers_total{{{labels[name]},finish_reason="{reason}"}} {count}'
            for reason, count in sorted(metrics.answers.items())
        ]
    for place, (name, help) in enumerate(
        (("answers_running", "Answers that are being written."), ("answers_waiting", "Answers that wait for a place.")),
        1,
    ):
        family(name, "gauge", help)
        lines += [f"pellucid_{name}{{{labels[model]}}} {one[place]}" for model, one in models.items()]
    for field, (name, help) in _HISTOGRAMS.items():
        family(name, "histogram", help)
        for model, (metrics, _, _) in models.items():
            lines += getattr(metrics, field).lines(f"pellucid_{name}", labels[model])
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
