"""What the option walk is made of: a small model, commands run in this process, and what they do, observed.

A probe is a function of a ``Walk``: it runs its command with the option, and asserts an effect that the command does
not have without it. ``PROBES`` of the test files name one for each option of each command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import tokenizers
import torch
from click.testing import CliRunner
from tokenizers import decoders, models, pre_tokenizers

from pellucid import AutoModelForCausalLM
from pellucid.base.errors import ModelNotFoundError
from pellucid.cli.app import COMMANDS, app

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass
class Outcome:
    """What a command did: its output, its end, and what was observed at the boundaries."""

    stdout: str
    stderr: str
    status: int
    error: str
    seen: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Walk:
    """Runs commands. ``model`` is a small llama that chats; ``other`` has other weights."""

    folder: Path
    model: Path
    other: Path
    patch: pytest.MonkeyPatch

    def __call__(self, *words: object, stdin: str = "", fails: bool = False) -> Outcome:
        with observed() as seen:
            result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
        status, error = result.exit_code, "" if result.exception is None else str(result.exception)
        if bool(status) != fails:
            raise AssertionError(f"{' '.join(map(str, words))}: {result.exception!r}\n{result.output[-2000:]}")
        return Outcome(result.stdout, result.stderr, status, error + result.stderr, seen)


@contextmanager
def observed() -> Iterator[dict[str, list[Any]]]:
    """What executors, engines and samplers are made with, while a command runs."""
    from pellucid.generate import engine, sequence
    from pellucid.model import executor
    from pellucid.native import executor as native

    seen: dict[str, list[Any]] = {"executor": [], "context_len": [], "sampling": [], "max_new_tokens": []}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:

        def after(owner: type, look: Callable[[Any], None]) -> None:
            make = owner.__init__

            def made(self: Any, *arguments: Any, **settings: Any) -> None:
                make(self, *arguments, **settings)
                look(self)

            patch.setattr(owner, "__init__", made)

        def see(name: str, what: Callable[[Any], Any]) -> Callable[[Any], None]:
            return lambda one: seen[name].append(what(one))

        def torchs(one: Any) -> dict[str, Any]:
            about = {"dtype": str(one.decoder.dtype), "device": str(one.decoder.device)}
            return {"kind": "torch", **about, "threads": torch.get_num_threads()}

        after(executor.TorchExecutor, see("executor", torchs))
        natives = see("executor", lambda one: {"kind": "native", "kv_cache": one.kv_cache, "threads": one.threads})
        after(native.NativeExecutor, natives)
        after(engine.Engine, see("context_len", lambda one: one.context_len))
        after(sequence.Sequence, see("sampling", lambda one: one.state.params))
        after(sequence.Sequence, see("max_new_tokens", lambda one: one.request.max_new_tokens))
        try:
            yield seen
        finally:
            torch.set_num_threads(threads)


def make_model(folder: Path, seed: int) -> Path:
    """A llama of one layer over letters and a few special tokens, with a chat template."""
    letters = [chr(code) for code in range(32, 127)]
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    spelled = pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: place for place, token in enumerate(sorted(spelled))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    assert all(backend.encode(letter).ids for letter in letters)
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
            "max_position_embeddings": 256,
            "eos_token_id": size - 4,
            "initializer_range": 0.3,
        },
        device="cpu",
        seed=seed,
    )
    model.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": TEMPLATE}))
    return folder


def options_of(command: click.Command) -> list[str]:
    """A command's options by their long flags, and its arguments by their names."""
    return [
        parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.name)
        for parameter in command.params
        if parameter.name != "help"
    ]


def commands() -> dict[str, click.Command]:
    """Every command by its name, those of a group too: ``tokenizer train``."""
    context, found = click.Context(app), {}
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {key}": one for key, one in inner.items()} if inner else {name: command}
    return found


Probe = Callable[[Walk], object]


def cases(probes: dict[str, dict[str, Probe]], slow: Collection[str] = ()) -> list[Any]:
    """A test for each probe, named ``command --option``; ``slow``: the names of those for `make test-all`."""
    return [
        pytest.param(
            probe,
            id=f"{command} {option}",
            marks=[pytest.mark.slow] if f"{command} {option}" in slow else [],
        )
        for command, options in probes.items()
        for option, probe in options.items()
    ]


def same(received: object, expected: object) -> None:
    assert received == expected


def differ(one: Any, other: Any) -> None:
    texts = [getattr(outcome, "stdout", outcome) for outcome in (one, other)]
    assert texts[0] != texts[1]


def has(outcome: Any, text: str) -> None:
    assert text in outcome.stdout + outcome.error


def offline(walk: Walk, *words: object, by: str = "-m", then: tuple[str, ...] = ()) -> None:
    """Without it the hub is asked; with it nothing is."""
    from huggingface_hub import constants

    from pellucid.checkpoint.sources import hub

    def asked(*_: object) -> Path:
        raise ModelNotFoundError("the hub was asked")

    walk.patch.setattr(hub, "_download", asked)
    walk.patch.setattr(constants, "HF_HUB_OFFLINE", False)
    model = [by, "org/none", *then] if by else ["org/none", *then]
    has(walk(*words, *model, fails=True), "the hub was asked")
    has(walk(*words, *model, "--offline", fails=True), "offline was asked for")
