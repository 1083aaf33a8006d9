"""A tiny model, a real server of it in a process of its own, and what it should answer, computed without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from pellucid.generate.request import Request
from pellucid.sampling import GREEDY, SamplingParams

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CONTEXT = 2048
WAIT = 60.0  # seconds for a server to come up: the program of a new model is compiled, on a busy machine


TOOLS = (  # Hermes' way of calling, and thoughts
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}</tool>{% endfor %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def tiny_model(folder: Path, seed: int = 1, template: str = TEMPLATE, special: Sequence[str] = ()) -> Path:
    """A llama of two layers over bytes and a few special tokens, with a chat template. It writes gibberish."""
    from pellucid import AutoModelForCausalLM

    vocab = {token: place for place, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*special, *SPECIAL])
    size = backend.get_vocab_size()
    model = AutoModelForCausalLM.from_config(
        {
            "model_type": "llama",
            "vocab_size": size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": CONTEXT,
            "eos_token_id": size - 4,
            "initializer_range": 0.3,
        },
        device="cpu",
        seed=seed,
    )
    model.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": template}))
    return folder


class Server:
    """``pellucid serve`` with these words, on a port of its own; ``with`` ends it and looks how it ended."""

    def __init__(self, *words: object, status: int = 0) -> None:
        self.status = status
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "pellucid", "serve", *map(str, words), "--port", "0", "--offline"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=self._log, stdout=subprocess.DEVNULL, env=environment)
        self.url = self._await_url()

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def _await_url(self) -> str:
        end = time.monotonic() + WAIT
        while time.monotonic() < end and self.process.poll() is None:
            for said in self.log.splitlines():
                if said.startswith("listening on "):
                    url = said.removeprefix("listening on ")
                    verify = url.startswith("http:")
                    if httpx.get(f"{url}/health", timeout=WAIT, verify=verify).status_code in (200, 401):
                        return url
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"the server did not come up:\n{self.log}")

    def end(self, timeout: float = 30) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def metric(self, name: str, **headers: str) -> float:
        """The first value of that name in /metrics."""
        text = httpx.get(f"{self.url}/metrics", headers=headers).text
        return next(float(one.split()[-1]) for one in text.splitlines() if one.startswith(f"pellucid_{name}"))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Alone:
    """The same model in this process, one request at a time."""

    def __init__(self, model: Path, executor: str = "native") -> None:
        from pellucid.auto import open_executor, open_model, tokenizer_of
        from pellucid.generate.engine import Engine

        checkpoint = open_model(model, offline=True)
        self.tokenizer = tokenizer_of(checkpoint)
        self.engine = Engine(open_executor(checkpoint, executor=executor, threads=1), self.tokenizer, reuse=False)

    def chat_ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def request(self, **fields: Any) -> Request:
        return Request(**fields)

    def answer(
        self, prompt_ids: Sequence[int], max_new_tokens: int, sampling: SamplingParams = GREEDY, **more: Any
    ) -> Any:
        request = Request(prompt_ids=prompt_ids, max_new_tokens=max_new_tokens, sampling=sampling, **more)
        return self.engine.run([request])[0].answers[0]
