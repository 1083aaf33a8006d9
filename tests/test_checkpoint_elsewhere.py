"""Models that other programs have on the disk: found and opened by name, listed, never removed."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import pytest

from pellucid.base.errors import ModelNotFoundError, RequestError
from pellucid.checkpoint.sources import catalogue
from pellucid.checkpoint.sources.elsewhere import find_elsewhere, found_elsewhere
from pellucid.checkpoint.sources.resolve import resolve
from pellucid.cli.app import app

DIGEST = "sha256:" + "ab" * 32
MODEL = b"GGUF" + bytes(96)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which Ollama, LM Studio and llama.cpp have models, and Pellucid and the hub's cache have none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "pellucid"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "cd" * 32},
        {"mediaType": "application/vnd.ollama.image.model", "digest": DIGEST, "size": len(MODEL)},
    ]
    manifests = tmp_path / ".ollama" / "models" / "manifests"
    for place in (
        "registry.ollama.ai/library/llama3.2/1b",
        "registry.ollama.ai/somebody/own/latest",
        "hf.co/org/name/Q4_K_M",
    ):
        put(manifests / place, json.dumps({"schemaVersion": 2, "layers": layers}).encode())
    put(manifests / "registry.ollama.ai/library/broken/latest", b"{")
    put(manifests / "registry.ollama.ai/library/gone/latest", json.dumps({"layers": [dict(layers[0])]}).encode())
    put(tmp_path / ".ollama" / "models" / "blobs" / DIGEST.replace(":", "-"), MODEL)
    put(tmp_path / ".lmstudio" / "models" / "pub" / "repo" / "m-Q4_K_M.gguf", MODEL)
    put(tmp_path / ".lmstudio" / "models" / "pub" / "repo" / "mmproj-m.gguf", MODEL)
    put(tmp_path / ".cache" / "llama.cpp" / "org_repo_m-Q8_0.gguf", MODEL)
    return tmp_path


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_every_program_s_models_are_found_under_their_own_names(home: Path):
    found = {model.name: (model.program, model.path.relative_to(home).as_posix()) for model in found_elsewhere()}
    blob = f".ollama/models/blobs/{DIGEST.replace(':', '-')}"
    for name in ("llama3.2:1b", "somebody/own:latest", "hf.co/org/name:Q4_K_M"):
        assert found[name] == ("Ollama", blob)
    assert found["pub/repo/m-Q4_K_M.gguf"] == ("LM Studio", ".lmstudio/models/pub/repo/m-Q4_K_M.gguf")
    assert found["org_repo_m-Q8_0.gguf"] == ("llama.cpp", ".cache/llama.cpp/org_repo_m-Q8_0.gguf")
    assert len(found) == 5


@pytest.mark.parametrize(
    "name", ["llama3.2:1b", "somebody/own", "somebody/own:latest", "hf.co/org/name:Q4_K_M", "LLAMA3.2:1B"]
)
def test_ollama_s_model_opens_by_ollama_s_name(home: Path, name: str):
    assert resolve(name, offline=True) == home / ".ollama" / "models" / "blobs" / DIGEST.replace(":", "-")


def test_other_programs_folders_are_where_they_say(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "elsewhere" / "x.gguf", MODEL)
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "elsewhere"))
    assert resolve("x.gguf", offline=True) == tmp_path / "elsewhere" / "x.gguf"
    assert find_elsewhere("org_repo_m-Q8_0.gguf") is None
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    assert find_elsewhere("llama3.2:1b") is None


def test_what_is_fetched_already_goes_before_another_program_s(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue.Entry, "is_cached", lambda entry: True)
    with pytest.raises(ModelNotFoundError):  # asked of the hub's cache, which is empty
        resolve("llama3.2:1b", offline=True)


def test_a_manifest_cannot_lead_out_of_the_store(home: Path):
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../../etc/passwd"}]
    put(
        home / ".ollama/models/manifests/registry.ollama.ai/library/evil/latest",
        json.dumps({"layers": layers}).encode(),
    )
    assert find_elsewhere("evil") is None


def test_they_are_listed(home: Path):
    rows = json.loads(click.testing.CliRunner().invoke(app, ["list", "--json"]).stdout)
    here = {row["name"]: row["about"] for row in rows if row["cached"]}
    assert here["pub/repo/m-Q4_K_M.gguf"] == "LM Studio's"
    assert here["org_repo_m-Q8_0.gguf"] == "llama.cpp's"
    assert "Ollama's" in here.values()


# --- rm --------------------------------------------------------------------------------------------------------------


def rm(*words: str, answer: str = "") -> click.testing.Result:
    return click.testing.CliRunner().invoke(app, ["rm", *words], input=answer)


def test_another_program_s_model_is_not_removed(home: Path):
    for name, remedy in (("llama3.2:1b", "ollama rm"), ("pub/repo/m-Q4_K_M.gguf", "LM Studio")):
        error = rm(name, "-y").exception
        assert isinstance(error, RequestError)
        assert remedy in str(error.remedy)
    assert len(list(found_elsewhere())) == 5


def test_what_was_fetched_is_removed_and_said(home: Path):
    put(home / "hub" / "models--org--name" / "blobs" / "a", bytes(2_000_000))
    put(home / "pellucid" / "models" / "smollm2" / "SmolLM2.gguf", bytes(1_000_000))
    done = rm("org/name", "smollm2", "-y")
    assert done.exception is None
    assert "org/name: 2 MB" in done.stderr
    assert done.stderr.endswith("freed 3 MB\n")
    assert not (home / "hub" / "models--org--name").exists()
    assert not (home / "pellucid" / "models" / "smollm2").exists()
    assert isinstance(rm("org/name", "-y").exception, ModelNotFoundError)


def test_nothing_is_removed_without_a_yes(home: Path, monkeypatch: pytest.MonkeyPatch):
    put(home / "hub" / "models--org--name" / "blobs" / "a", bytes(10))
    assert isinstance(rm("org/name").exception, RequestError)  # nobody to ask
    monkeypatch.setattr("pellucid.cli.rm.asks", lambda: True)
    assert rm("org/name", answer="n\n").exit_code == 1
    assert (home / "hub" / "models--org--name").exists()
    assert rm("org/name", answer="y\n").exit_code == 0
    assert not (home / "hub" / "models--org--name").exists()


def test_what_is_not_a_fetched_model_is_not_removed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "mine.gguf", MODEL)
    for name in ("tiny", str(tmp_path / "mine.gguf")):
        assert isinstance(rm(name, "-y").exception, RequestError), name
    assert (tmp_path / "mine.gguf").exists()
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "org" / "name" / "config.json", b"{}")
    put(home / "hub" / "models--org--name" / "blobs" / "a", bytes(10))
    assert isinstance(rm("org/name", "-y").exception, RequestError)  # what is named is the folder
