"""One system, one model, as a process that ``native.py`` asks: lines of JSON in, lines of JSON out. Run by each
system's own Python.

    python bench/native_worker.py pellucid|llama.cpp|reference FILE THREADS CONTEXT REQUESTS

``{"do": "measure", "prompt": P, "new": N}``: P random tokens in each request's cache, then N steps of a token for each
request. Back come the seconds of the first request's prefill, and of each step. A prompt that is in the cache from the
last time is not computed again unless ``"again"`` is given. ``{"do": "logits", "ids": [...], "path": FILE}`` writes the
logits after each token, (T, V) float32.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


class Pellucid:
    def __init__(self, file: str, threads: int, context: int, requests: int, executor: str = "native") -> None:
        from pellucid.auto import open_executor, open_model
        from pellucid.executor import StepInput

        self.step_input, self.context = StepInput, context
        self.run = open_executor(
            open_model(file), executor=executor, dtype="auto" if executor == "native" else "float32", threads=threads
        )
        self.vocab_size, self.variants = self.run.config.vocab_size, [""]
        self.slots = [self.run.allocate(context) for _ in range(requests)]

    def clear(self, request: int, length: int) -> None:
        self.run.truncate(self.slots[request], length)

    def feed(self, request: int, ids: list[int], *, every: bool = False) -> np.ndarray:
        """The next tokens of a request; logits of the last, or of all."""
        wanted = range(len(ids)) if every else (len(ids) - 1,)
        return self.run.step([self.step_input(self.slots[request], ids, wanted)]).numpy()

    def step(self, token: int) -> None:
        """One token for every request."""
        self.run.step([self.step_input(slot, [token], (0,)) for slot in self.slots]).numpy()

    def choose(self, variant: int) -> None: ...


class LlamaCpp:
    """llama.cpp through its own batches. Variants of its settings stand ready, so that the quickest can be taken."""

    def __init__(self, file: str, threads: int, context: int, requests: int) -> None:
        import ctypes

        import llama_cpp as api  # pyright: ignore[reportMissingImports]

        self.api, self.requests = api, requests
        self.silent = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self.silent, ctypes.c_void_p(0))
        api.llama_backend_init()
        asked = api.llama_model_default_params()
        # with AMX, weights of a mixture that were put in another order end in a segmentation fault (0.3.36)
        as_they_are = Path(file).name.startswith("moe-") and b"AMX_INT8 = 1" in api.llama_print_system_info()
        asked.use_extra_bufts = not as_they_are
        model = api.llama_model_load_from_file(file.encode(), asked)
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        settings = [(flash, unified) for flash in (0, 1) for unified in ((False, True) if requests > 1 else (False,))]
        self.variants = [
            f"flash attention {'on' if flash else 'off'}{', unified cache' if unified else ''}"
            f"{', weights as they are' if as_they_are else ''}"
            for flash, unified in settings
        ]
        self.contexts = []
        for flash, unified in settings:
            wanted = api.llama_context_default_params()
            wanted.n_ctx = (context + 255) // 256 * 256 * requests
            wanted.n_batch, wanted.n_ubatch, wanted.n_seq_max = 2048, 512, requests
            wanted.n_threads = wanted.n_threads_batch = threads
            wanted.flash_attn_type, wanted.kv_unified = flash, unified
            self.contexts.append(api.llama_init_from_model(model, wanted))
        self.choose(0)

    def choose(self, variant: int) -> None:
        self.own, self.memory = self.contexts[variant], self.api.llama_get_memory(self.contexts[variant])
        self.lengths = [0] * self.requests
        self.api.llama_memory_clear(self.memory, True)

    def clear(self, request: int, length: int) -> None:
        self.api.llama_memory_seq_rm(self.memory, request, length, -1)
        self.lengths[request] = length

    def feed(self, request: int, ids: list[int], *, every: bool = False) -> np.ndarray:
        for start in range(0, len(ids), 2048):
            part = ids[start : start + 2048]
            logits = self._decode([(token, request) for token in part], every or start + len(part) == len(ids), every)
        return logits

    def step(self, token: int) -> None:
        self._decode([(token, request) for request in range(self.requests)], True, True)

    def _decode(self, rows: list[tuple[int, int]], last: bool, every: bool) -> np.ndarray:
        api = self.api
        batch = api.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, request) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = (
                token,
                self.lengths[request],
                1,
                request,
            )
            batch.logits[i] = every or (last and i == len(rows) - 1)
            self.lengths[request] += 1
        if api.llama_decode(self.own, batch):
            raise RuntimeError("llama_decode failed")
        count = sum(batch.logits[i] for i in range(len(rows)))
        api.llama_batch_free(batch)
        if not count:
            return np.empty((0, self.vocab_size), np.float32)
        return np.ctypeslib.as_array(api.llama_get_logits(self.own), (count, self.vocab_size))


def measure(system: Pellucid | LlamaCpp, asked: dict, held: list[int]) -> dict:
    """``held``: how many tokens of the prompt are in each request's cache from before."""
    prompt, new = asked["prompt"], asked["new"]
    ids = np.random.default_rng(0).integers(0, system.vocab_size, prompt + new).tolist()
    prefill = 0.0
    for request in range(len(held)):
        if held[request] != prompt or asked.get("again"):
            system.clear(request, 0)
            start = time.perf_counter()
            system.feed(request, ids[:prompt])
            prefill = prefill or time.perf_counter() - start
            held[request] = prompt
        else:
            system.clear(request, prompt)
    steps = []
    for token in ids[prompt:]:
        start = time.perf_counter()
        system.step(token)
        steps.append(time.perf_counter() - start)
    return {"prefill": prefill, "steps": steps}


def main() -> None:
    name, file, threads, context, requests = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    kinds = {
        "pellucid": Pellucid,
        "llama.cpp": LlamaCpp,
        "reference": lambda *given: Pellucid(*given, executor="torch"),
    }
    system = kinds[name](file, threads, context, requests)
    held = [0] * requests
    print(json.dumps(system.variants), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict = {}
        if asked["do"] == "measure":
            answer = measure(system, asked, held)
        elif asked["do"] == "choose":
            system.choose(asked["variant"])
            held = [0] * requests
        else:
            system.clear(0, 0)
            np.save(asked["path"], system.feed(0, asked["ids"], every=True))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
