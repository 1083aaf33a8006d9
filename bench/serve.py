"""Output tokens a second, time to first token and between tokens over HTTP: `pellucid serve` beside llama.cpp's server,
same file, same threads, one run.

    python bench/serve.py --model smollm2 --threads 2 --record
    python bench/serve.py --llama-server /path/to/llama-server          # built from llama.cpp's sources
    python bench/serve.py --llamacpp-python .venv-serve/bin/python      # or llama-cpp-python's: pip install
                                                                        # 'llama-cpp-python[server]==0.3.36'

Servers take turns, one running at a time. Closed loop: C clients, each asks again when it has been answered. Open loop:
requests arrive at random (Poisson), whatever is still being answered. Every prompt begins with a number of its own, so
nothing is reused, but where a shared prefix is what is measured. The end token is banned by logit_bias, so each answer
has all its tokens. The client is one process on the same machine, and its time is in every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
TEXT = "The history of the world is the history of a few people who wrote down what they saw, and of many who did not. "


@dataclass
class Answered:
    """One request as its client saw it; seconds."""

    started: float
    arrivals: list[float] = field(default_factory=list)  # of each piece of text
    ended: float = 0.0

    @property
    def first(self) -> float:
        return self.arrivals[0] - self.started

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def ask(port: int, body: dict[str, Any]) -> Answered:
    """A streamed completion over a plain socket: the client costs as little as it can."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps({**body, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answered = Answered(time.perf_counter())
    writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{status!r} {(await reader.read())[-500:]!r}")
    while line := await reader.readline():
        has_text = b'"text"' in line and b'"text":""' not in line and b'"text": ""' not in line
        if line.startswith(b"data: {") and has_text:
            answered.arrivals.append(time.perf_counter())
    answered.ended = time.perf_counter()
    writer.close()
    if not answered.arrivals:
        raise RuntimeError("an answer without text")
    return answered


class Prompts:
    """Texts of so many tokens; each begins differently, or with what they are to share."""

    def __init__(self, tokenizer: Any, num_tokens: int, shared: str = "") -> None:
        self.tokenizer, self.num_tokens, self.shared, self.rng = tokenizer, num_tokens, shared, random.Random(0)

    def next(self) -> str:
        text = f"{self.shared}{self.rng.randrange(10**6)}. {TEXT * (self.num_tokens // 16 + 2)}"
        return self.tokenizer.decode(self.tokenizer.encode(text, add_special_tokens=False)[: self.num_tokens])


async def closed(port: int, clients: int, requests: int, body: dict[str, Any], prompts: Prompts) -> list[Answered]:
    left = iter(range(requests))
    done: list[Answered] = []

    async def client() -> None:
        for _ in left:
            done.append(await ask(port, {**body, "prompt": prompts.next()}))

    await asyncio.gather(*(client() for _ in range(clients)))
    return done


async def opened(port: int, rate: float, requests: int, body: dict[str, Any], prompts: Prompts) -> list[Answered]:
    rng, tasks = random.Random(1), []
    for _ in range(requests):
        tasks.append(asyncio.create_task(ask(port, {**body, "prompt": prompts.next()})))
        await asyncio.sleep(rng.expovariate(rate))
    return list(await asyncio.gather(*tasks))


def figures(answers: list[Answered], new_tokens: int) -> dict[str, float]:
    seconds = max(one.ended for one in answers) - min(one.started for one in answers)
    first, gaps = [one.first for one in answers], [gap for one in answers for gap in one.gaps]
    return {
        "tokens_per_second": len(answers) * new_tokens / seconds,
        "first_p50": percentile(first, 50),
        "first_p95": percentile(first, 95),
        "between_p50": percentile(gaps, 50),
        "between_p99": percentile(gaps, 99),
    }


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] if ordered else 0.0


@contextmanager
def running(command: list[str], port: int) -> Any:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"did not come up: {' '.join(command)}") from None
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def systems(given: argparse.Namespace) -> dict[str, Any]:
    """Name → the command that serves on a port."""
    context, threads = 2048, str(given.threads)
    both: dict[str, Any] = {
        "pellucid": lambda port: [
            *(sys.executable, "-m", "pellucid", "serve", "-m", given.model, "--port", str(port), "-t", threads),
            *("-np", str(max(given.clients)), "-c", str(context), "--offline"),
        ]
    }
    if given.llama_server:
        slots = max(given.clients)
        both["llama-server"] = lambda port: [
            *(given.llama_server, "-m", given.model, "--port", str(port), "-t", threads, "-tb", threads),
            *("-np", str(slots), "-c", str(context * slots)),
        ]
    elif given.llamacpp_python:
        both["llama_cpp.server"] = lambda port: [
            *(given.llamacpp_python, "-m", "llama_cpp.server", "--model", given.model, "--port", str(port)),
            *("--n_ctx", str(context), "--n_threads", threads, "--n_threads_batch", threads),
        ]
    return both


def measure(command: Any, given: argparse.Namespace, tokenizer: Any, end_ids: list[int]) -> dict[str, dict[str, float]]:
    body = {
        "model": "any",
        "max_tokens": given.new_tokens,
        "temperature": 0,
        "logit_bias": {str(token): -100 for token in end_ids},
    }
    rows: dict[str, dict[str, float]] = {}
    port = free_port()
    with running(command(port), port):
        with urlopen(f"http://127.0.0.1:{port}/v1/models") as answer:
            body["model"] = json.load(answer)["data"][0]["id"]
        asyncio.run(closed(port, 1, 1, {**body, "max_tokens": 8}, Prompts(tokenizer, 32)))
        for length in given.prompt_tokens:
            for clients in given.clients:
                requests = max(given.requests, clients) if clients > 1 else max(given.requests // 4, 2)
                answers = asyncio.run(closed(port, clients, requests, body, Prompts(tokenizer, length)))
                rows[f"closed, {clients} clients, {length} tokens"] = figures(answers, given.new_tokens)
                print(f"  {clients} clients, {length} tokens", file=sys.stderr)
        answers = asyncio.run(opened(port, given.rate, given.requests, body, Prompts(tokenizer, 128)))
        rows[f"open, {given.rate:g} a second, 128 tokens"] = figures(answers, given.new_tokens)
        shared = Prompts(tokenizer, 1000).next()
        prompts = Prompts(tokenizer, 1016, shared)
        first, *again = (asyncio.run(closed(port, 1, 1, body, prompts))[0].first for _ in range(4))
        rows["a shared prefix of 1,000 tokens"] = {"first": first, "again": statistics.median(again)}
    return rows


def alone(given: argparse.Namespace) -> float:
    """Tokens a second of the engine without HTTP, as many answers at a time as the most clients."""
    from pellucid.cli.runs.session import open_session
    from pellucid.generate.request import Request

    clients = max(given.clients)
    session = open_session(given.model, {"threads": given.threads, "context_len": 2048}, max_batch=clients)
    prompts = Prompts(session.tokenizer, 128)
    ids = [session.tokenizer.encode(prompts.next()) for _ in range(max(given.requests, clients))]
    requests = [Request(prompt_ids=one, max_new_tokens=given.new_tokens, stop_token_ids=()) for one in ids]
    session.engine.run(requests[:2])
    started = time.perf_counter()
    session.engine.run(requests)
    return len(requests) * given.new_tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a GGUF file, or a catalogue alias of one")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, nargs="*", default=[128, 1024])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=64, help="in each row; a quarter where there is one client")
    parser.add_argument("--rate", type=float, default=1.0, help="requests a second, open loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama-server", help="the program, built from llama.cpp's sources")
    parser.add_argument("--llamacpp-python", help="a Python with llama-cpp-python[server]")
    parser.add_argument("--record", action="store_true", help="write bench/records/serve-DATE.json")
    given = parser.parse_args()

    from pellucid.auto import locate, open_model, tokenizer_of
    from pellucid.defaults import AnswerDefaults

    given.model = str(locate(given.model))
    checkpoint = open_model(given.model)
    tokenizer = tokenizer_of(checkpoint)
    ends = AnswerDefaults.of(checkpoint.config, checkpoint.generation_config, tokenizer).stop_token_ids
    results: dict[str, Any] = {}
    for name, command in systems(given).items():
        print(name, file=sys.stderr)
        results[name] = measure(command, given, tokenizer, list(ends))
    engine = alone(given)
    report(results, engine, given)


def report(results: dict[str, Any], engine: float, given: argparse.Namespace) -> None:
    for row in results["pellucid"]:
        print(row)
        for name, rows in results.items():
            print(f"  {name:18}", "  ".join(f"{key} {value:.4g}" for key, value in rows[row].items()))
    most = f"closed, {max(given.clients)} clients, 128 tokens"
    if most in results["pellucid"]:
        share = 1 - results["pellucid"][most]["tokens_per_second"] / engine
        print(
            f"engine alone, {max(given.clients)} at a time: {engine:.4g} tokens/s; HTTP and the client cost {share:.1%}"
        )
    if given.record:
        path = ROOT / "bench" / "records" / f"serve-{date.today()}.json"
        settings = {name: value for name, value in vars(given).items() if name != "record"}
        record = {"machine": platform.processor() or platform.machine(), "settings": settings, "engine": engine}
        path.write_text(json.dumps({**record, "results": results}, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
