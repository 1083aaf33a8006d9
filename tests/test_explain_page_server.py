"""The page's server: only this machine, only its own page, and every tile and cell equals the tensor."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.auto import open_model, tokenizer_of
from pellucid.base.errors import RequestError
from pellucid.explain.show.server import PageServer
from pellucid.explain.show.tiles import largest_in_blocks
from pellucid.explain.show.view import View
from pellucid.explain.subject import Subject
from pellucid.model.load import load_decoder

TEXT = "Once upon a time, there was a little girl"


@pytest.fixture(scope="module")
def view(stories: Path) -> View:
    checkpoint = open_model(stories / "stories260K.bin")
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return View(Subject.of(checkpoint, decoder, tokenizer_of(checkpoint)), TEXT)


@pytest.fixture(scope="module")
def server(view: View) -> Iterator[PageServer]:
    with serving(view) as server:
        yield server


def ask(
    server: PageServer, path: str, method: str = "GET", body: object = None, token: str | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """``path`` within the page, whose address has the token in it; ``token``: another."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    data = None if body is None else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {
        "Host": f"127.0.0.1:{server.server_address[1]}",
        **({"Content-Type": "application/json"} if data else {}),
        **named,
    }
    whole = f"/{server.token if token is None else token}{path}" if path.startswith("/") else path
    connection.putrequest(method, whole, skip_host=True)
    for name, value in sent.items():
        connection.putheader(name, value)
    if data is not None:
        connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data.encode() if data else None)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_it_listens_on_this_machine_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/{server.token}/"


@pytest.mark.parametrize("token", ["", "x", "%00", "..", "x" * 500])
def test_who_does_not_know_the_token_is_refused(server: PageServer, token: str) -> None:
    """Others on this machine, and pages that guess the port."""
    for path in ("/", "/index.html", "/main.js", "/api/model", f"/x/{server.token}/api/model"):
        assert ask(server, path, token=token)[0].status == 403
    assert ask(server, "/api/trace", "POST", {"text": "x"}, token=token)[0].status == 403


def test_the_token_is_another_for_each_server_and_long(view: View, server: PageServer) -> None:
    with PageServer(view) as other:
        assert other.token != server.token
        assert len(other.token) >= 20


def test_a_request_without_the_token_in_its_path_is_refused(server: PageServer) -> None:
    for path in ("*", "http://evil.example/", "?", f"?{server.token}"):
        assert ask(server, path)[0].status == 403


def connect(server: PageServer) -> socket.socket:
    host, port = server.server_address[:2]
    return socket.create_connection((str(host), int(port)), timeout=20)


def drip(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.05)


def test_a_silent_connection_is_closed(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.explain.show.server.SECONDS", 0.2)
    with serving(view) as server, connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert connection.recv(1) == b""


def test_a_request_that_never_ends_is_closed(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole does not: neither a header nor a body holds its place for long."""
    monkeypatch.setattr("pellucid.explain.show.server.SECONDS", 0.3)
    with serving(view) as server:
        host = f"Host: 127.0.0.1:{server.server_address[1]}\r\n"
        body = f"POST /{server.token}/api/trace HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
        for start in ("GET / HTTP/1.1\r\nX: ", f"{body}Content-Length: 900\r\n\r\n"):
            with connect(server) as connection:
                connection.sendall(start.encode())
                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    drip(connection)


def test_a_connection_serves_many_requests(server: PageServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    for _ in range(3):
        connection.request("GET", f"/{server.token}/main.js")
        used = connection.sock
        assert connection.getresponse().read().startswith(b"//")
        assert connection.sock is used
    connection.close()


def test_connections_are_bounded_and_a_place_is_free_again_when_one_ends(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.explain.show.server.MAX_CONNECTIONS", 3)
    with serving(view) as server:
        held = [connect(server) for _ in range(3)]
        with connect(server) as one_more:
            assert one_more.recv(1) == b""
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if ask(server, "/main.js")[0].status == 200:
                    return
            except OSError:  # the server has not seen the others end yet
                time.sleep(0.05)
        raise AssertionError("no place became free")


@contextmanager
def serving(view: View) -> Iterator[PageServer]:
    with PageServer(view) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:80", ""])
def test_a_foreign_host_name_is_refused(server: PageServer, host: str) -> None:
    """DNS rebinding: a name of somebody else's that points here."""
    response, _ = ask(server, "/api/model", Host=host)
    assert response.status == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_a_foreign_origin_is_refused(server: PageServer, origin: str) -> None:
    response, _ = ask(server, "/api/model", Origin=origin)
    assert response.status == 403
    response, _ = ask(server, "/api/trace", "POST", {"text": "x"}, Origin=origin)
    assert response.status == 403


def test_our_own_origin_is_served(server: PageServer) -> None:
    for name in server.local_names():
        response, _ = ask(server, "/api/model", Host=name, Origin=f"http://{name}")
        assert response.status == 200


def test_orders_must_be_json(server: PageServer) -> None:
    """What a form of another site can send without asking is never an order."""
    response, _ = ask(server, "/api/trace", "POST", {"text": "x"}, Content_Type="text/plain")
    assert response.status == 400


def test_an_order_is_bounded_however_it_says_its_length(server: PageServer) -> None:
    large = {"text": "x" * (2**20 + 1)}
    assert ask(server, "/api/trace", "POST", large)[0].status == 400
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    pieces = iter([b"{" + b" " * 2**19] * 3)
    connection.request(
        "POST", f"/{server.token}/api/trace", pieces, {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == 400
    connection.close()


def test_ctrl_c_ends_it(view: View) -> None:
    """In the main thread, with an answer under way."""

    def interrupt() -> None:
        ask(server, "/api/model")
        signal.raise_signal(signal.SIGINT)

    with PageServer(view) as server:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever()


def test_every_answer_carries_the_policy(server: PageServer) -> None:
    for path in ("/", "/main.js", "/api/model", "/nothing"):
        response, _ = ask(server, path)
        policy = response.getheader("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "'unsafe" not in policy
        assert "http:" not in policy.replace("127.0.0.1", "")
        assert response.getheader("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/../server.py", "/%2e%2e/server.py", "/sections/../../server.py", "/__init__.py", "/etc/passwd", "//etc/passwd"],
)
def test_only_the_pages_own_files_are_served(server: PageServer, path: str) -> None:
    assert ask(server, path)[0].status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/nothing", 404),
        ("/api/step/layers.99.q", 400),
        ("/api/cell/layers.0.q?index=0,0,0,999", 400),
        ("/api/cell/layers.0.q?index=a", 400),
        ("/api/tile/layers.0.q?at=0", 400),
        ("/api/tile/layers.0.q?at=0,-1", 400),
        ("/api/tile/layers.0.q?at=0,0&rows=5:2", 400),
        ("/api/histogram/embed", 400),
        ("/api/run?run=gone", 400),
    ],
)
def test_a_question_out_of_range_is_answered_with_an_error(server: PageServer, path: str, status: int) -> None:
    response, body = ask(server, path)
    assert response.status == status
    assert json.loads(body)["error"]


def test_tiles_equal_the_tensors(view: View, server: PageServer) -> None:
    for name, value in view.first.record.items():
        at = [0] * (value.ndim - 2)
        response, body = ask(server, f"/api/tile/{name}?at={','.join(map(str, at))}")
        rows, cols, *steps = map(int, (response.getheader("X-Tile") or "").split(","))
        assert steps == [1, 1]
        assert np.array_equal(np.frombuffer(body, "<f4").reshape(rows, cols), value[tuple(at)].numpy(), equal_nan=True)


def test_a_part_of_a_tile_is_that_part(view: View) -> None:
    whole = view.weight("embed.weight").numpy()
    assert np.array_equal(view.tile("embed.weight", {"rows": "10:20", "cols": "3:9"}).data, whole[10:20, 3:9])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_a_thumbnail_shows_the_largest_of_each_block(
    rows: int, cols: int, row_step: int, col_step: int, seed: int
) -> None:
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    small = largest_in_blocks(x, row_step, col_step)
    for i in range(small.shape[0]):
        for j in range(small.shape[1]):
            block = x[i * row_step : (i + 1) * row_step, j * col_step : (j + 1) * col_step].flatten()
            assert small[i, j] == block[block.abs().argmax()]


def test_cells_carry_their_operands(view: View) -> None:
    cell = view.answer("cell/layers.1.pattern", {"index": "0,2,5,3"})
    assert cell["value"] == view.first.record["layers.1.pattern"][0, 2, 5, 3].item()
    assert cell["leads"][0]["name"] == "layers.1.scores"
    assert "<math" in cell["mathml"]
    weight = view.answer("cell/layers.0.mlp.up_proj.weight", {"index": "3,4"})
    assert weight["value"] == view.weight("layers.0.mlp.up_proj.weight")[3, 4].item()


def test_bytes_by_part_sum_to_the_whole(view: View) -> None:
    model = view.answer("model", {})
    assert sum(part["bytes"] for part in model["parts"]) == model["total_bytes"] == 4 * model["total_parameters"]
    counts = view.answer("histogram/embed.weight", {})["counts"]
    assert sum(counts) == view.weight("embed.weight").numel()


def test_generation_continues_as_the_model_does(view: View) -> None:
    made: list[int] = []
    for _ in range(6):
        answer = view.order("generate", {"ids": made, "temperature": 0})
        made.append(answer["token"]["id"])
    ids = torch.tensor([view.first.record.tokens[0] + made])
    logits = view._trace("", ids=ids[0].tolist()).record["logits"][0]
    assert made == logits[-7:-1].argmax(-1).tolist()
    assert answer["cache"]["length"] == ids.shape[1]
    assert answer["cache"]["bytes"] == answer["cache"]["bytes_per_token"] * ids.shape[1]


def test_an_ablated_head_changes_nothing_before_it(view: View) -> None:
    answer = view.order("whatif", {"edits": [{"kind": "ablate", "where": "layers.2", "head": 1}]})
    edited, plain = view._runs[answer["run"]].record, view.first.record
    assert not edited["layers.2.z"][:, 1].any()
    assert torch.equal(edited["layers.2.resid_pre"], plain["layers.2.resid_pre"])
    assert not np.any(answer["change"][:3])
    assert np.any(answer["change"][3])


def test_old_runs_go_and_the_first_stays(view: View) -> None:
    for text in ("a", "b", "c", "d", "e"):
        view.order("trace", {"text": text})
    assert view.answer("run", {})["text"] == TEXT
    assert len(view._runs) <= 3


def test_a_text_must_be_a_text(view: View) -> None:
    for text in ("", None, 3, "x" * 20_001):
        with pytest.raises(RequestError):
            view.order("trace", {"text": text})
