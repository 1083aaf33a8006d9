"""``pellucid serve``: every option reaches what it names. The server itself is in test_serve_*.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from option_walk import make_model, options_of

from pellucid.base.errors import ConfigError, PellucidError
from pellucid.cli.serve import command
from pellucid.serve.settings import Settings
from pellucid.serve.work.models import Models


@dataclass
class Run:
    """The command with its server put aside: what it would have served."""

    model: Path
    other: Path
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *words: object) -> tuple[Models, Settings]:
        served: list[Any] = []
        self.monkeypatch.setattr(
            "pellucid.serve.http.server.serve", lambda app, settings: served.append((app, settings))
        )
        named = [] if "-m" in words else ["-m", self.model]
        result = CliRunner().invoke(command, [str(word) for word in (*named, *words)], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        ((app, settings),) = served
        return app.state.models, settings

    def opened(self, *words: object) -> Any:
        """The first model, loaded."""
        return self(*words)[0].models[0].open()

    def asked(self, *words: object) -> dict[str, Any]:
        """What is asked of the executor, which is not opened."""
        asked: dict[str, Any] = {}

        def open_executor(checkpoint: Any, **settings: Any) -> None:
            asked.update(settings)
            raise ConfigError("enough")

        self.monkeypatch.setattr("pellucid.auto.open_executor", open_executor)
        with pytest.raises(ConfigError, match="enough"):
            self.opened(*words)
        return asked

    def settings(self, *words: object) -> Settings:
        return self(*words)[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_model(folder / "model", 1), make_model(folder / "other", 2)


@pytest.fixture
def run(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(*models, monkeypatch)


def certificate(run: Run) -> Path:
    path = run.model / "cert.pem"
    path.write_text("")
    return path


TORCH = ("--executor", "torch")
PROBES: dict[str, Callable[[Run], bool]] = {
    "--model": lambda run: (
        [one.name for one in run("-m", run.model, "-m", run.other)[0].models] == [str(run.model), str(run.other)]
    ),
    "--served-model-name": lambda run: run("--served-model-name", "x")[0].models[0].name == "x",
    "--ctx-size": lambda run: run.opened(*TORCH, "-c", 50).engine.context_len == 50,
    "--memory": lambda run: run.opened(*TORCH, "--memory", "64M").engine._core.slots.memory == 64 * 2**20,
    "--dtype": lambda run: (
        str(run.opened(*TORCH, "--dtype", "float16").engine.executor.decoder.dtype) == "torch.float16"
    ),
    "--device": lambda run: fails(lambda: run.opened("--device", "cuda:99"), "the device 'cuda:99' cannot"),
    "--threads": lambda run: run.asked("-t", 1)["threads"] == 1,
    "--executor": lambda run: "Torch" in type(run.opened(*TORCH).engine.executor).__name__,
    "--kv-cache": lambda run: run.asked("--kv-cache", "int8")["kv_cache"] == "int8",
    "--tokenizer": lambda run: fails(lambda: run.opened("--tokenizer", "smollm2"), "is not the model's"),
    "--offline": lambda run: fails(lambda: run.opened("-m", "no-one/nothing", "--offline"), "no-one/nothing"),
    "--chat-template": lambda run: run.settings("--chat-template", text_file(run, "{{ 1 }}")).template == "{{ 1 }}",
    "--keep-alive": lambda run: run("--keep-alive", 7)[0].models[0].keep_alive == 7,
    "--host": lambda run: run.settings("--host", "0.0.0.0").host == "0.0.0.0",
    "--port": lambda run: run.settings("--port", 81).port == 81,
    "--api-key": lambda run: run.settings("--api-key", "a", "--api-key", "b").api_keys == ("a", "b"),
    "--cors": lambda run: run.settings("--cors", "*").cors_origins == ("*",),
    "--allowed-host": lambda run: run.settings("--allowed-host", "box").allowed_hosts == ("box",),
    "--ssl-certfile": lambda run: (
        run.settings("--ssl-certfile", certificate(run)).ssl_certfile == str(certificate(run))
    ),
    "--ssl-keyfile": lambda run: fails(
        lambda: run("--ssl-keyfile", certificate(run)), "a TLS key needs its certificate"
    ),
    "--parallel": lambda run: (
        run("-np", 3)[0].models[0].max_batch == run.opened(*TORCH, "-np", 3).engine._core.scheduler.max_batch == 3
    ),
    "--max-queue": lambda run: run.settings("--max-queue", 0).max_queue == 0,
    "--timeout": lambda run: run.settings("--timeout", 2.5).deadline == 2.5,
    "--grace": lambda run: run.settings("--grace", 0).grace == 0,
    "--draft": lambda run: (
        type(run.opened(*TORCH, "--draft", run.other).engine._core.speculate).__name__ == "DraftModel"
    ),
    "--prompt-lookup": lambda run: run.opened(*TORCH, "--prompt-lookup", 5).engine._core.speculate.most == 5,
}


def text_file(run: Run, text: str) -> Path:
    path = run.model / "template.txt"
    path.write_text(text)
    return path


def fails(work: Callable[[], Any], said: str) -> bool:
    with pytest.raises(PellucidError, match=said):
        work()
    return True


def test_no_option_is_without_a_probe_and_no_probe_without_an_option() -> None:
    assert set(PROBES) == set(options_of(command))


@pytest.mark.parametrize("option", PROBES)
def test_an_option_reaches_what_it_names(option: str, run: Run) -> None:
    assert PROBES[option](run)


def test_models_beyond_the_first_are_given_back_when_nobody_asks(run: Run) -> None:
    first, second = run("-m", run.model, "-m", run.other)[0].models
    assert (first.keep_alive, second.keep_alive) == (None, 300)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--served-model-name", "a", "--served-model-name", "b"), "more names than models"),
        (("--timeout", 0), "--timeout is out of range"),
        (("--port", 70_000), "a port is out of range"),
    ],
    ids=["names", "timeout", "port"],
)
def test_what_cannot_be_served_is_refused(run: Run, words: tuple[object, ...], said: str) -> None:
    assert fails(lambda: run(*words), said)
