"""The hub: the real huggingface_hub client against a hub of our own; only what is needed is asked for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from pellucid import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import ModelNotFoundError
from pellucid.checkpoint.sources.hub import HubName, cached, fetch, folder_of, is_in_cache
from pellucid.checkpoint.sources.hub_files import needed
from pellucid.checkpoint.sources.resolve import resolve
from pellucid.cli.app import app

WEIGHTS = bytes(range(256)) * 1024
INDEX = json.dumps(
    {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
).encode()
SAFETENSORS = {
    "README.md": b"# A model",
    "config.json": b'{"model_type": "llama"}',
    "consolidated.safetensors": WEIGHTS,
    "flax_model.msgpack": WEIGHTS,
    "generation_config.json": b'{"top_k": 1}',
    "model.safetensors": WEIGHTS,
    "modeling_evil.py": b"raise SystemExit('code from a model folder was run')",
    "onnx/model.onnx": WEIGHTS,
    "original/consolidated.00.pth": WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
}
SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": INDEX,
    "model.fp16.safetensors": WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
}
SHARDED |= {f"model-0000{i}-of-00002.safetensors": WEIGHTS[i:] for i in (1, 2)}
GGUFS = {"README.md": b"", "m-Q4_K_M.gguf": b"GGUF4", "m-Q8_0.gguf": b"GGUF8", "mmproj-m.gguf": b"GGUFp"}
GGUFS |= {f"BF16/m-BF16-0000{i}-of-00002.gguf": b"GGUFb%d" % i for i in (1, 2)}


class Hub(ThreadingHTTPServer):
    """The endpoints that huggingface_hub calls to fetch a model: info, tree, and resolve with ETags and ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> revision -> path -> contents
        self.gated: set[str] = set()
        self.private: dict[str, str] = {}  # repository -> the token it wants
        self.requests: list[str] = []
        self.break_off_after: int | None = None  # bytes of a body after which the connection is dropped
        self.dies_then = False
        self.starts: list[int] = []  # of the ranges asked for
        self.failing = False  # answers 500 to everything
        self.down = False  # answers nothing, on connections still open
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked_for(self) -> list[str]:
        """The files whose contents were asked for since last time."""
        paths = sorted(
            {
                path.split("/resolve/")[1].split("/", 1)[1]
                for path in self.requests
                if path.startswith("GET") and "/resolve/" in path
            }
        )
        self.requests.clear()
        return paths

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the test."""


def commit(files: dict[str, bytes]) -> str:
    return hashlib.sha1(
        b"".join(name.encode() + hashlib.sha1(body).digest() for name, body in sorted(files.items()))
    ).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def log_message(self, *_: Any) -> None:
        pass

    def respond(self) -> None:
        if self.server.down:
            self.close_connection = True
            return None
        path = unquote(urlparse(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.failing:
            return self.send(500, b"")
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").split("/")
        repo, rest = "/".join(parts[1:3]), parts[3:]
        if repo not in self.server.repos or self.server.private.get(repo) not in (None, self.token()):
            return self.send(
                404 if self.token() else 401,
                b"",
                {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
            )
        if repo in self.server.gated and not api:
            return self.send(
                403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
            )
        revisions = self.server.repos[repo]
        revision = rest[1] if len(rest) > 1 else "main"
        files = next((files for name, files in revisions.items() if revision in (name, commit(files))), None)
        if files is None:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if not api:
            return self.send_file(files, "/".join(rest[2:]))
        listed = [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in files.items()
        ]
        if rest[:1] == ["tree"]:
            return self.send_json(listed)
        info = {
            "_id": "1",
            "id": repo,
            "modelId": repo,
            "sha": commit(files),
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "private": False,
        }
        return self.send_json(info | {"siblings": [{"rfilename": name} for name in files]})

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def send_file(self, files: dict[str, bytes], path: str) -> None:
        headers = {"X-Repo-Commit": commit(files)}
        if path not in files:
            return self.send(
                404, b"", headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            )
        body = files[path]
        headers |= {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            self.server.starts.append(start)
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.send(206, body[start:], headers)
        return self.send(200, body, headers)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        most = self.server.break_off_after
        self.wfile.write(body[:most])
        if most is not None and len(body) > most:
            self.close_connection = True
            self.server.down = self.server.dies_then


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, the real client pointed at it as HF_ENDPOINT and HF_HUB_CACHE would (it reads them when imported)."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses between its tries
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "")
    server.repos["org/plain"] = {"main": SAFETENSORS, "v1": SAFETENSORS | {"config.json": b'{"model_type": "gpt2"}'}}
    server.repos["org/sharded"] = {"main": SHARDED}
    server.repos["org/ggufs"] = {"main": GGUFS}
    server.repos["org/old"] = {"main": {"config.json": b"{}", "pytorch_model.bin": WEIGHTS, "tf_model.h5": WEIGHTS}}
    yield server
    server.shutdown()
    server.server_close()


def take_down(server: Hub) -> None:
    server.down = True
    server.shutdown()
    server.server_close()


# -- Names


def test_a_hub_id_names_a_repository_a_revision_and_a_file() -> None:
    assert HubName.parse("Qwen/Qwen3-0.6B") == HubName("Qwen/Qwen3-0.6B")
    assert HubName.parse("org/name@v1.0") == HubName("org/name", "v1.0")
    assert HubName.parse("org/name@refs/pr/3:Q4_K_M") == HubName("org/name", "refs/pr/3", "Q4_K_M")
    assert HubName.parse("org/name:sub/model.gguf") == HubName("org/name", None, "sub/model.gguf")
    for name in ("org/name", "org/name@v1", "org/name:Q8_0", "org/name@v1:Q8_0"):
        assert str(HubName.parse(name)) == name


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("hf.co/org/name", "org/name"),
        ("hf.co/org/name:Q4_K_M", "org/name:Q4_K_M"),
        ("https://huggingface.co/org/name", "org/name"),
        ("https://huggingface.co/org/name/", "org/name"),
        ("https://www.huggingface.co/org/name/tree/main", "org/name"),
        ("huggingface.co/org/name/tree/v1.0", "org/name@v1.0"),
        ("https://huggingface.co/org/name/blob/main/m-Q4_K_M.gguf?download=true", "org/name:m-Q4_K_M.gguf"),
        ("https://huggingface.co/org/name/resolve/abc123/sub/m%20x.gguf", "org/name@abc123:sub/m x.gguf"),
        ("https://huggingface.co/org/name/blob/main/config.json", "org/name"),
        ("org/name/m-Q8_0.gguf", "org/name:m-Q8_0.gguf"),
        ("org/name/sub/m.gguf", "org/name:sub/m.gguf"),
    ],
)
def test_a_link_names_what_it_leads_to(link: str, name: str) -> None:
    assert str(HubName.parse(link)) == name


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "hf.co/org",
        "https://huggingface.co/org/name/blob/main/../../x.gguf",
        "https://huggingface.co/datasets/org/name",
        "https://example.org/org/name",
        "a/b/c",
        "../b",
        "org/..",
        "org/name@../../etc",
        "org/name:../x",
        "org/",
        "/org/name",
        "org/na me",
        "org/name@",
        "C:\\a",
    ],
)
def test_what_could_leave_the_cache_is_no_hub_id(name: str) -> None:
    assert HubName.parse(name) is None


# -- Which files


def plan(names: dict[str, bytes], pick: str | None = None, **options: Any) -> list[str]:
    files = needed(
        names,
        lambda index: json.loads(names[index])["weight_map"].values(),
        "org/name" + (f":{pick}" if pick else ""),
        pick,
        **options,
    )
    return [*files.small, *files.weights]


def test_only_what_makes_up_the_model_is_needed() -> None:
    assert plan(SAFETENSORS) == [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert plan(SHARDED) == ["config.json", "model.safetensors.index.json", *shards]
    assert plan({"config.json": b"", "pytorch_model.bin": b"", "tf_model.h5": b"", "x.py": b""}) == [
        "config.json",
        "pytorch_model.bin",
    ]
    assert plan(SAFETENSORS, with_weights=False) == [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert plan({"adapter_config.json": b"", "adapter_model.safetensors": b""}) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert plan({"README.md": b"", "model.gguf": b"", "mmproj.gguf": b""}) == ["model.gguf"]


@pytest.mark.parametrize(
    ("pick", "files"),
    [
        ("Q4_K_M", ["m-Q4_K_M.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("BF16", ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"]),
        ("BF16/m-BF16-00001-of-00002.gguf", ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"]),
    ],
)
def test_a_gguf_is_picked_by_name_or_by_quantization(pick: str, files: list[str]) -> None:
    assert plan(GGUFS, pick) == files


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("Q5_K_M", "the name of no .gguf"),
        ("Q4_K", "the name of no .gguf"),
        ("m", "the name of several .gguf"),
        (None, "holds several models"),
    ],
)
def test_a_pick_that_does_not_tell_lists_what_there_is(pick: str | None, message: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        plan(GGUFS, pick)
    assert message in caught.value.what
    assert "m-Q4_K_M.gguf" in str(caught.value)
    assert "name one: org/name:" in str(caught.value.remedy)


def test_a_repository_without_weights_or_with_a_hostile_index_is_an_error() -> None:
    with pytest.raises(ModelNotFoundError, match="no weights that we can read"):
        plan({"README.md": b"", "weights.onnx": b""})
    hostile = json.dumps({"weight_map": {"a": "../../.ssh/id"}}).encode()
    with pytest.raises(ModelNotFoundError, match="a file that the repository does not hold"):
        plan({"config.json": b"", "model.safetensors.index.json": hostile})


def test_a_gguf_in_parts_is_needed_whole() -> None:
    with pytest.raises(ModelNotFoundError, match="a part of the model is missing"):
        plan({"m-00001-of-00003.gguf": b"", "m-00003-of-00003.gguf": b""})


# -- Transfers


def test_a_fresh_download_asks_for_the_needed_files_only(server: Hub) -> None:
    folder = resolve("org/plain")
    assert sorted(path.name for path in folder.iterdir()) == sorted(plan(SAFETENSORS))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert server.asked_for() == sorted(plan(SAFETENSORS))


@pytest.mark.parametrize(
    "name",
    [
        "org/ggufs/m-Q8_0.gguf",
        "hf.co/org/ggufs:q8_0",
        "https://huggingface.co/org/ggufs/blob/main/m-Q8_0.gguf",
        "https://huggingface.co/org/ggufs/resolve/main/m-Q8_0.gguf?download=true",
    ],
)
def test_a_link_or_a_path_in_a_repository_fetches_that_file(server: Hub, name: str) -> None:
    assert resolve(name).read_bytes() == b"GGUF8"
    assert server.asked_for() == ["m-Q8_0.gguf"]


def test_what_was_fetched_is_listed_with_its_files_and_can_be_removed(server: Hub) -> None:
    for name in ("org/plain", "org/ggufs:Q8_0", "org/ggufs:BF16"):
        resolve(name)
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout) if row["cached"]}
    assert rows["org/plain"]["size"] > len(WEIGHTS)
    assert rows["org/ggufs:m-Q8_0.gguf"]["size"] == len(b"GGUF8")
    assert "org/ggufs:BF16/m-BF16-00001-of-00002.gguf" in rows
    for name in rows:
        if name.startswith("org/"):
            assert resolve(name, offline=True).exists()
    remove = lambda name: CliRunner().invoke(app, ["rm", "-y", name])  # noqa: E731
    assert remove("org/ggufs:Q8_0").exception is None  # this file, not the others
    assert "freed 12 bytes" in remove("org/ggufs:BF16").stderr  # both parts
    assert not [path for path in (folder_of("org/ggufs") / "blobs").iterdir() if path.read_bytes().startswith(b"GGUF")]
    assert isinstance(remove("org/ggufs:Q8_0").exception, ModelNotFoundError)
    assert remove("org/ggufs").exception is None
    assert not is_in_cache("org/ggufs")
    assert is_in_cache("org/plain")


def test_the_second_run_transfers_nothing(server: Hub) -> None:
    first = resolve("org/plain")
    server.asked_for()
    assert resolve("org/plain") == first
    assert len(server.requests) == 1  # has the model changed?
    assert server.asked_for() == []


@pytest.mark.parametrize(
    ("name", "trouble"),
    [("org/plain", trouble) for trouble in ("down", "failing", "offline", "HF_HUB_OFFLINE")]
    + [(name, "down") for name in ("org/sharded", "org/ggufs:Q8_0", "org/plain@v1", "org/old")],
)
def test_what_is_cached_works_without_the_hub(
    server: Hub, monkeypatch: pytest.MonkeyPatch, name: str, trouble: str
) -> None:
    first = resolve(name)
    if trouble == "failing":
        server.failing = True
    elif trouble == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        take_down(server)
    server.requests.clear()
    assert resolve(name, offline=trouble == "offline") == first
    assert (server.requests == []) == (trouble != "failing")


def test_shards_are_those_of_the_index(server: Hub) -> None:
    folder = resolve("org/sharded")
    assert sorted(path.name for path in folder.iterdir()) == sorted(plan(SHARDED))


def test_a_gguf_is_fetched_alone_and_its_path_given(server: Hub) -> None:
    path = resolve("org/ggufs:Q4_K_M")
    assert (path.name, path.read_bytes()) == ("m-Q4_K_M.gguf", b"GGUF4")
    assert server.asked_for() == ["m-Q4_K_M.gguf"]
    assert resolve("org/ggufs:bf16").name == "m-BF16-00001-of-00002.gguf"
    assert server.asked_for() == ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"]


def test_a_tokenizer_alone_spares_the_weights(server: Hub) -> None:
    folder = resolve("org/plain", weights=False)
    assert server.asked_for() == plan(SAFETENSORS, with_weights=False)
    take_down(server)
    assert resolve("org/plain", weights=False) == folder
    with pytest.raises(ModelNotFoundError, match="not cached whole"):
        resolve("org/plain")


def test_a_revision_is_a_model_of_its_own(server: Hub) -> None:
    assert (resolve("org/plain@v1") / "config.json").read_bytes() == b'{"model_type": "gpt2"}'
    sha = commit(server.repos["org/plain"]["v1"])
    assert resolve(f"org/plain@{sha}") == resolve("org/plain@v1")
    assert resolve("org/plain") != resolve("org/plain@v1")
    with pytest.raises(ModelNotFoundError, match="no revision 'v2'"):
        resolve("org/plain@v2")


def test_a_model_that_changed_is_fetched_anew(server: Hub) -> None:
    old = resolve("org/plain")
    server.repos["org/plain"]["main"] = SAFETENSORS | {"config.json": b'{"model_type": "qwen3"}'}
    server.asked_for()
    new = resolve("org/plain")
    assert new != old
    assert (new / "config.json").read_bytes() == b'{"model_type": "qwen3"}'
    assert server.asked_for() == ["config.json"]  # the other files are the same, by their ETags


def test_gated_and_missing_and_private_are_told_apart(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["org/gated"] = server.repos["org/private"] = {"main": SAFETENSORS}
    server.gated.add("org/gated")
    server.private["org/private"] = "secret"
    with pytest.raises(ModelNotFoundError, match="gated") as caught:
        resolve("org/gated")
    assert f"{server.url}/org/gated" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    for name in ("org/nothing", "org/private"):
        with pytest.raises(ModelNotFoundError, match="has no such model, or it is private"):
            resolve(name)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert (resolve("org/private") / "model.safetensors").is_file()


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Hub) -> None:
    server.break_off_after = 100_000
    assert (resolve("org/plain") / "model.safetensors").read_bytes() == WEIGHTS
    assert len(server.starts) == 2
    assert all(start > 80_000 for start in server.starts)  # what had come was not asked for again


def test_a_transfer_that_fails_leaves_no_model_and_keeps_the_files_that_came_whole(server: Hub) -> None:
    server.break_off_after, server.dies_then = 100_000, True
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("org/plain")
    assert "broke off" in caught.value.what
    assert "files that came whole are kept" in str(caught.value.remedy)
    assert cached(HubName("org/plain")) is None
    with pytest.raises(ModelNotFoundError, match="not cached whole"):
        resolve("org/plain", offline=True)
    server.break_off_after, server.down = None, False
    server.asked_for()
    assert (resolve("org/plain") / "model.safetensors").read_bytes() == WEIGHTS
    assert server.asked_for() == ["model.safetensors"]


def test_a_full_disk_is_told_from_a_hub_out_of_reach(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ModelNotFoundError, match="does not fit on the disk"):
        resolve("org/plain")


def test_an_unreachable_hub_is_an_error_that_says_what_was_tried(server: Hub) -> None:
    take_down(server)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("org/plain")
    for part in ("org/plain", server.url, "HF_ENDPOINT", "on disk"):
        assert part in str(caught.value)
    with pytest.raises(ModelNotFoundError, match="offline was asked for"):
        resolve("org/plain", offline=True)


def test_the_environment_of_huggingface_hub_is_honoured(server: Hub, tmp_path: Path) -> None:
    server.repos["org/plain-private"] = {"main": SAFETENSORS}
    server.private["org/plain-private"] = "secret"
    code = "import sys; from pellucid.checkpoint.sources.resolve import resolve; print(resolve(sys.argv[1]))"
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        environment.pop(variable, None)

    def run(**more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code, "org/plain-private"], env=environment | more, capture_output=True, text=True
        )

    first = run()
    assert Path(first.stdout.strip()).is_relative_to(tmp_path / "home" / "hub"), first.stderr
    assert first.stderr == ""  # no bars where stderr is no terminal
    take_down(server)
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout
    elsewhere = run(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "elsewhere"))
    assert "HF_HUB_OFFLINE is set" in elsewhere.stderr


def test_bars_are_put_back_as_they_were(server: Hub) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    fetch(HubName("org/plain"), progress=False)
    assert are_progress_bars_disabled() == before


# -- As transformers' callers ask for it


@pytest.fixture
def whole(server: Hub) -> Hub:
    """A model that opens, at the top of one repository and in a folder of another; as GGUF, too."""
    from pellucid.checkpoint.sources.catalogue import find_entry

    entry = find_entry("tiny")
    assert entry is not None
    files = {path.name: path.read_bytes() for path in entry.source.path.iterdir() if path.is_file()}  # type: ignore[union-attr]
    server.repos["org/model"] = {"main": files, "v2": files | {"generation_config.json": b'{"max_new_tokens": 3}'}}
    server.repos["org/parts"] = {"main": {f"inside/deep/{name}": body for name, body in files.items()}}
    return server


@pytest.mark.habit("loading", "from_pretrained(name, cache_dir=folder)", "works")
@pytest.mark.habit("loading", "AutoTokenizer.from_pretrained(name, cache_dir=folder)", "works")
@pytest.mark.habit("loading", "AutoConfig.from_pretrained(name, cache_dir=folder)", "works")
def test_a_cache_of_the_callers_own_is_where_files_go(whole: Hub, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    AutoConfig.from_pretrained("org/model", cache_dir=mine)
    assert whole.asked_for() == [name for name in sorted(whole.repos["org/model"]["main"]) if "safetensors" not in name]
    AutoTokenizer.from_pretrained("org/model", cache_dir=str(mine))
    AutoModelForCausalLM.from_pretrained("org/model", cache_dir=mine, device="cpu")
    assert (mine / "models--org--model").is_dir()
    assert not is_in_cache("org/model")
    take_down(whole)
    AutoModelForCausalLM.from_pretrained("org/model", cache_dir=mine, local_files_only=True, device="cpu")
    with pytest.raises(ModelNotFoundError, match="not cached whole"):
        AutoModelForCausalLM.from_pretrained("org/model", local_files_only=True)


@pytest.mark.habit("loading", "from_pretrained(name, token=…)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, use_auth_token=…)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, token=False)", "works")
def test_a_token_of_the_call_opens_what_is_private(whole: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole.private["org/model"] = "hf_secret"
    refused: list[dict[str, Any]] = [{}, {"token": "hf_other"}]
    for words in refused:
        with pytest.raises(ModelNotFoundError, match="no such model, or it is private"):
            AutoConfig.from_pretrained("org/model", **words)
    assert AutoConfig.from_pretrained("org/model", use_auth_token="hf_secret").vocab_size == 4096
    assert AutoTokenizer.from_pretrained("org/model", token="hf_secret").vocab_size == 4096
    AutoModelForCausalLM.from_pretrained("org/model", token="hf_secret", device="cpu")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    whole.requests.clear()
    AutoConfig.from_pretrained("org/model", token=False)  # told to go without: what is cached answers
    assert whole.asked_for() == []


@pytest.mark.habit("loading", "from_pretrained(name, subfolder=…)", "works")
@pytest.mark.habit("loading", "AutoTokenizer.from_pretrained(name, subfolder=…)", "works")
def test_a_folder_of_a_repository_is_a_model(whole: Hub) -> None:
    model = AutoModelForCausalLM.from_pretrained("org/parts", subfolder="inside/deep", device="cpu")
    tokenizer = AutoTokenizer.from_pretrained("org/parts", subfolder="inside/deep/")
    assert model.config.vocab_size == tokenizer.vocab_size == 4096
    assert all(name.startswith("inside/deep/") for name in whole.asked_for())
    take_down(whole)
    again = AutoModelForCausalLM.from_pretrained("org/parts", subfolder="inside/deep", device="cpu", offline=True)
    assert again.config == model.config
    with pytest.raises(ModelNotFoundError):
        AutoConfig.from_pretrained("org/parts", subfolder="elsewhere", offline=True)


def test_a_folder_that_a_repository_has_not_is_told_with_those_it_has(whole: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="inside/deep"):
        AutoConfig.from_pretrained("org/parts", subfolder="elsewhere")
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        AutoConfig.from_pretrained(Path(__file__).parent, subfolder="elsewhere")


@pytest.mark.habit("loading", "from_pretrained(name, gguf_file=…)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, revision=…)", "works")
def test_a_gguf_file_and_a_revision_are_named_by_words(whole: Hub) -> None:
    found = resolve_as_asked("org/ggufs", gguf_file="m-Q8_0.gguf")
    assert (found.name, whole.asked_for()) == ("m-Q8_0.gguf", ["m-Q8_0.gguf"])
    assert resolve_as_asked("org/ggufs", gguf_file="m-Q8_0.gguf", revision="main") == found
    model = AutoModelForCausalLM.from_pretrained("org/model", revision="v2", device="cpu")
    assert model.generation_config.max_new_tokens == 3


def resolve_as_asked(name: str, revision: str | None = None, **words: Any) -> Path:
    from pellucid.auto import locate
    from pellucid.checkpoint.sources.asked import Asked

    asked = Asked.of(name, revision, False, words)
    return locate(asked.name, revision=revision, offline=asked.offline, access=asked.access)


@pytest.mark.habit(
    "loading", "from_pretrained('smollm2', cache_dir=…)", "pointer", "it is no repository: PELLUCID_CACHE"
)
def test_a_model_that_is_no_repository_has_no_cache_of_the_hub(whole: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="PELLUCID_CACHE"):
        AutoConfig.from_pretrained("tiny", cache_dir=tmp_path)
    assert AutoConfig.from_pretrained("tiny", token="hf_x").vocab_size == 4096


@pytest.mark.habit("shell", "LANG=zh_CN.UTF-8 with HF_ENDPOINT set to a mirror", "works")
def test_a_chinese_locale_fetches_its_model_from_the_mirror(whole: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.cli.terminal.at_hand import BILINGUAL, first_model

    whole.repos["Qwen/Qwen2.5-0.5B-Instruct"] = whole.repos["org/model"]
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert first_model(resolve) == BILINGUAL
    assert "model.safetensors" in whole.asked_for()
    assert first_model(resolve) == BILINGUAL
    assert whole.asked_for() == []
