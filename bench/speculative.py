"""What reuse and guesses save: a chat's time to first token over its turns, lookup in the prompt, and a draft model, in
one run.

    python bench/speculative.py --model smollm2 --threads 1 --rounds 5 --record

The draft is the model's file as it ships; it guesses for the same weights widened to float32, which take about five
times as long a token: a large and a small model that agree often, as two of a family do. With and without take turns
within a round; ratios are medians of each round's ratio. That the tokens are the same is checked for every one. Prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STORY = """The lighthouse at Port Ellery had been dark for eleven years when Mara came to repair it. She brought two \
crates of tools, a kettle,
and a letter from the harbour board that nobody in the village would read. The lens was whole, but the clockwork \
that turned it had rusted, and
birds had nested in the lamp room. She worked through the autumn. In December a fishing boat was lost off the point, \
and after that the village
brought her oil, bread, and a boy of twelve who could climb. They lit the lamp on the first of March."""
QUESTIONS = (
    "What is a lighthouse for?",
    "Who worked in them?",
    "Why are most of them dark today?",
    "Name three famous ones.",
    "Which of these is the oldest?",
    "How far can its light be seen?",
    "What did they burn before electricity?",
    "Was that dangerous?",
    "Could I live in one?",
    "Sum up what you told me.",
)
TASKS = {
    "repeat": f"Repeat this text word for word:\n\n{STORY}",
    "summarise": f"Summarise this text, quoting its own sentences:\n\n{STORY}",
    "correct": "Correct the spelling and give back the whole text:\n\n"
    + STORY.replace("lighthouse", "lighthuose").replace("village", "vilage"),
    "free": "Write a short poem about the sea.",
}
DRAWN = {"temperature": 0.7, "top_p": 0.95, "seed": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="smollm2", help="a GGUF file, a folder, or a catalogue alias of a chat model"
    )
    parser.add_argument("--executor", default="native", choices=("native", "torch"))
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="*", default=["chat", "lookup", "draft"], help="of chat, lookup and draft")
    parser.add_argument("--record", action="store_true", help="write bench/records/speculative-DATE.json")
    given = parser.parse_args()
    from pellucid.auto import open_executor, open_model, tokenizer_of
    from pellucid.generate import DraftModel, PromptLookup

    checkpoint = open_model(given.model)
    small = open_executor(checkpoint, executor=given.executor, threads=given.threads)
    model = Model(tokenizer_of(checkpoint), given)
    report: dict[str, Any] = {"load before": os.getloadavg()[0]}
    if "chat" in given.parts:
        report["chat"] = model.chat(small)
    if "lookup" in given.parts:
        report["lookup"] = model.compare(small, {"lookup": lambda: PromptLookup(15)}, TASKS)
    if "draft" in given.parts:
        large = widened(checkpoint, given)
        tasks = {name: TASKS[name] for name in ("repeat", "free")}
        report["draft"] = model.compare(
            large, {"draft": lambda: DraftModel(small), "lookup": lambda: PromptLookup(15)}, tasks
        )
    report["load after"] = os.getloadavg()[0]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.strip()
    record = {
        "date": date.today().isoformat(),
        "commit": commit,
        "command": " ".join(sys.argv),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "settings": {key: getattr(given, key) for key in ("executor", "new_tokens", "threads", "rounds")},
        **report,
    }
    print(json.dumps(record, indent=1))
    if given.record:
        path = ROOT / "bench" / "records" / f"speculative-{record['date']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)


def widened(checkpoint: Any, given: argparse.Namespace) -> Any:
    """An executor of the same weights in float32."""
    from pellucid.model.executor import TorchExecutor
    from pellucid.model.load import load_decoder, weights_of
    from pellucid.native.executor import NativeExecutor

    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    if given.executor == "torch":
        return TorchExecutor(decoder)
    return NativeExecutor(decoder.config, dict(weights_of(decoder)), threads=given.threads)


class Model:
    """Prompts and answers of one tokenizer."""

    def __init__(self, tokenizer: Any, given: argparse.Namespace) -> None:
        self.tokenizer, self.given = tokenizer, given

    def request(self, messages: Sequence[dict[str, str]], new_tokens: int, **sampling: Any) -> Any:
        from pellucid.generate import Request
        from pellucid.sampling import GREEDY, SamplingParams

        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        stops = self.tokenizer.stop_token_ids
        params = SamplingParams(**sampling) if sampling else GREEDY
        return Request(prompt_ids=ids, max_new_tokens=new_tokens, sampling=params, stop_token_ids=stops)

    def chat(self, executor: Any) -> list[dict[str, Any]]:
        """Each turn with and without reuse: tokens computed before the first token, and seconds; medians."""
        from pellucid.generate import Engine

        turns: list[dict[str, Any]] = []
        seconds: list[tuple[list[float], list[float]]] = [([], []) for _ in QUESTIONS]
        for _ in range(self.given.rounds):
            engines = [Engine(executor, reuse=True), Engine(executor, reuse=False)]
            messages: list[dict[str, str]] = []
            turns = []
            for question, taken in zip(QUESTIONS, seconds, strict=True):
                messages.append({"role": "user", "content": question})
                request = self.request(messages, self.given.new_tokens)
                with_it, without = (engine.run([request])[0].answers[0] for engine in engines)
                assert with_it.token_ids == without.token_ids
                for its, answer in zip(taken, (with_it, without), strict=True):
                    its.append(answer.timings.time_to_first_token)
                prompt, reused = with_it.timings.prompt_tokens, with_it.timings.reused_tokens
                turns.append(
                    {"prompt tokens": prompt, "computed with reuse": prompt - reused, "computed without": prompt}
                )
                answer_ids = [token for token in with_it.token_ids if token not in request.stop_token_ids]
                messages.append({"role": "assistant", "content": self.tokenizer.decode(answer_ids)})
            engines[0].forget()
        for turn, (with_it, without) in zip(turns, seconds, strict=True):
            turn["first token with reuse (s)"] = round(statistics.median(with_it), 4)
            turn["first token without (s)"] = round(statistics.median(without), 4)
        return turns

    def compare(self, executor: Any, ways: dict[str, Any], tasks: dict[str, str]) -> list[dict[str, Any]]:
        """Decoding speed of each task, greedy and drawn: plain, and each way of guessing beside it."""
        from pellucid.generate import Engine

        found = []
        for task, text in tasks.items():
            for sampling in ({}, DRAWN):
                request = self.request([{"role": "user", "content": text}], self.given.new_tokens, **sampling)
                speeds: dict[str, list[float]] = {name: [] for name in ("plain", *ways)}
                last: dict[str, Any] = {}
                for _ in range(self.given.rounds):
                    for name, its in speeds.items():
                        engine = Engine(executor, reuse=False, speculate=ways[name]() if name in ways else None)
                        last[name] = engine.run([request])[0].answers[0]
                        its.append(last[name].timings.decode_tokens_per_second)
                        engine.forget()
                        assert last[name].token_ids == last["plain"].token_ids
                row: dict[str, Any] = {
                    "task": task,
                    "sampling": "drawn" if sampling else "greedy",
                    "tokens": last["plain"].timings.new_tokens,
                }
                row["plain (tok/s)"] = round(statistics.median(speeds["plain"]), 1)
                for name in ways:
                    ratios = [fast / plain for fast, plain in zip(speeds[name], speeds["plain"], strict=True)]
                    its = last[name].timings
                    row[name] = {
                        "tok/s": round(statistics.median(speeds[name]), 1),
                        "ratio": round(statistics.median(ratios), 2),
                        "guessed": its.guessed_tokens,
                        "right": its.accepted_tokens,
                    }
                found.append(row)
        return found


if __name__ == "__main__":
    main()
