"""The page in one file: it works from ``file://``, asks nothing of the network, and says what it left out.

The same modules as the server's, joined into one script; the same answers, looked up by their address; tensors as
base64 float32. Text from a prompt or a model file only ever stands in a JSON block, with every ``<`` escaped, and
becomes text nodes; the policy in the file lets exactly one script run, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from pellucid.base.errors import PellucidError, RequestError
from pellucid.base.files import atomic_write
from pellucid.explain.questions.attribution import attributions
from pellucid.explain.record import Record
from pellucid.explain.show.answers import plain
from pellucid.explain.show.embed_causes import embed_causes
from pellucid.explain.show.page import page_files
from pellucid.explain.show.questions import attribution_json
from pellucid.explain.show.view import View
from pellucid.explain.subject import Subject
from pellucid.explain.training.html import add_training
from pellucid.explain.training.view import Training

MAX_BYTES = 20_000_000
CLOSE_POSITIONS = 8  # of a long text, the last ones have their outputs, lens and attribution in the file
NAMED = 64  # tokens of a distribution
TOKENS = 6  # whose attribution is in the file, likeliest first
WALK = 3  # steps back from each pinned cell
BREADTH = 6  # cells followed at each step
PATTERNS = 0.6  # of the room, for the attention of all layers
UNQUOTED = "!~*'()"

Pin = tuple[str, Sequence[int]]


def write_page(
    trace: Record,
    path: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    subject: Subject | None = None,
    pinned: Sequence[Pin] = (),
    training: Training | None = None,
) -> None:
    """Write the page of a trace; atomically.

    ``max_bytes`` bounds the file: layers are taken from the middle, the ends, then the rest, as far as they fit.
    ``subject`` tells the model's name and how its files hold it. ``pinned`` names cells whose operands, with a few
    steps back from each, must be in the file; the answer's own logit always is. ``training`` is the run that made the
    model, for the page's last section.

    Raises: RequestError for a trace of chosen positions, and where not even the least fits.
    """
    if trace.is_partial:
        raise RequestError(
            "the page needs every position of the text",
            remedy="trace without positions=; choose layers= to save memory",
        )
    if subject is None:
        subject = Subject.loaded(trace.model, trace.prompt.tokenizer)
    _write(path, _gather(View(subject, first=trace, training=training), _room(max_bytes), pinned).to_json())


def write_training_page(training: Training, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
    """Write the page of a run that has no model to explain yet: its training section alone. Raises: RequestError where
    it does not fit.
    """
    data = _Data(_room(max_bytes) - 4096, 0)
    data.answers.update(model=None, run=None)
    add_training(data, training, share=1.0)
    if "training/state" not in data.answers:
        raise RequestError("the page does not fit", received=max_bytes, remedy="raise max_bytes")
    left_out = {"en": "It holds what the run had recorded when it was written.", "zh": "它包含写下它时训练已有的记录。"}
    _write(path, {**data.to_json(), "left_out": left_out})


def _room(max_bytes: int) -> int:
    """What is left of a file beside the page's own code."""
    return max_bytes - len(_shell("{}").encode())


def _write(path: str | os.PathLike[str], data: Any) -> None:
    page = _shell(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    with atomic_write(path) as file:
        file.write(page.encode())


@dataclass
class _Data:
    """What fits."""

    room: int
    num_layers: int
    positions: list[int] = field(default_factory=list)
    length: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    layers: list[int] = field(default_factory=list)
    patterns: list[int] = field(default_factory=list)  # layers whose attention is there in 8 bits
    asked: list[tuple[int, int | None]] = field(default_factory=list)  # attributions: position and token
    causes: bool = False

    def answer(self, address: str, value: Any) -> bool:
        return self.fits(self.answers, address, value)

    def tensor(self, name: str, array: Any, shape: Sequence[int], steps: tuple[int, int] = (1, 1)) -> bool:
        packed = base64.b64encode(array.astype("<f4").tobytes()).decode()
        return self.fits(
            self.tensors, name, {"shape": list(shape), "data": packed, "row_step": steps[0], "col_step": steps[1]}
        )

    def fits(self, where: dict[str, Any], key: str, value: Any) -> bool:
        size = _size(value) + len(key) + 8
        free = self.room + (_size(where[key]) + len(key) + 8 if key in where else 0)
        if size > free:
            return False
        where[key], self.room = value, free - size
        return True

    def left_out(self) -> dict[str, str]:
        layers, all_layers = _ranges(self.layers), len(self.layers) == self.num_layers
        close, all_close = _ranges(self.positions), len(self.positions) == self.length
        en = ("It holds every layer" if all_layers else f"It holds layers {layers} of 0–{self.num_layers - 1}") + (
            "" if all_close else f"; outputs, lens and attribution of positions {close} only"
        )
        zh = ("它包含每一层" if all_layers else f"它包含第 {layers} 层（共 0–{self.num_layers - 1}）") + (
            "" if all_close else f"；输出、透镜与归因只有位置 {close}"
        )
        if len(self.patterns) > len(set(self.layers) & set(self.patterns)):
            en += f"; the attention of layers {_ranges(self.patterns)}, where a layer is not whole, in 8 bits"
            zh += f"；第 {_ranges(self.patterns)} 层的注意力，不完整的层里只有 8 位"
        en += "; causes for the likeliest answers" if self.causes else "; no causes, which would take many runs"
        zh += "；最可能的答案的原因" if self.causes else "；没有原因，那要跑很多次"
        return {
            "en": f"{en}; the {NAMED} likeliest tokens of each distribution; operands of pinned cells. "
            "Generating and editing need the live model.",
            "zh": f"{zh}；每个分布最可能的 {NAMED} 个词元；钉住的格子的算式。生成和改动需要运行中的模型。",
        }

    def to_json(self) -> dict[str, Any]:
        return {"answers": self.answers, "tensors": self.tensors, "left_out": self.left_out()}


def _gather(view: View, room: int, pinned: Sequence[Pin]) -> _Data:
    record = view.first.record
    length, num_layers = view.first.length, record.config.num_layers
    data = _Data(room - 4096, num_layers, length=length)
    for path in ("model", "run"):
        if not data.answer(path, view.answer(path, {})):
            raise RequestError(
                "the page does not fit",
                expected="more bytes",
                received=room,
                remedy="raise max_bytes, or trace a shorter text",
            )
    best = int(record["logits"][0, -1].argmax()) if "logits" in record else 0
    for address, value in _walks(view, [*pinned, ("logits", (0, length - 1, best))]):
        data.answer(address, value)
    for path in ("checks", "precision", "text", "batch", "norms", "surprise"):
        _ask(data, view, path)
    add_training(data, view.training)
    data.positions = (
        list(range(max(0, length - CLOSE_POSITIONS), length)) if length > 2 * CLOSE_POSITIONS else list(range(length))
    )
    for name in record:
        if record.taps[name].layer is None:
            _ask(data, view, f"step/{name}")
            if name != "logits":
                _tensor(data, view, name)
    for position in reversed(data.positions):
        _position(data, view, position, length)
    _attributions(data, view)
    data.causes = embed_causes(view, partial(_ask, data, view), data.answer)
    for layer in reversed(range(num_layers)):
        if _pattern(data, view, layer):
            data.patterns.append(layer)
    for layer in _order(num_layers):
        if _layer(data, view, layer):
            data.layers.append(layer)
    data.layers.sort()
    for name in dict(view.subject.decoder.named_parameters()):
        _ask(data, view, f"histogram/{name}")
    for part in view.answer("model", {})["parts"]:  # what is left of the room: weights, the small ones first
        _weight(data, view, part["name"])
    return data


def _size(value: Any) -> int:
    """Bytes in the file."""
    if isinstance(value, dict) and "data" in value:  # a tensor: base64 has nothing to escape
        return len(value["data"]) + _size({key: item for key, item in value.items() if key != "data"}) + 10
    return len(escape(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode())


def _ask(data: _Data, view: View, question: str, /, **params: Any) -> Any:
    """Embeds an answer; one that this trace cannot give is left out."""
    try:
        value = view.answer(question, {key: str(item) for key, item in params.items()})
    except PellucidError:
        return None
    if question == "output":
        value = {**value, "top": value["top"][:NAMED]}
    return value if data.answer(address(question, params), value) else None


def address(path: str, params: Mapping[str, Any]) -> str:
    """As ``source.js`` spells it: parameters in order, and their values as ``encodeURIComponent`` has them."""
    query = "&".join(f"{key}={quote(str(value), safe=UNQUOTED)}" for key, value in sorted(params.items()))
    return f"{path}?{query}" if query else path


def _position(data: _Data, view: View, position: int, length: int) -> None:
    output = _ask(data, view, "output", pos=position)
    first = max(0, min(position - 5, length - 8))  # the lens's own window
    window = ",".join(str(i) for i in range(first, first + min(8, length)))
    if address("lens", {"positions": window}) not in data.answers:
        _ask(data, view, "lens", positions=window)
    data.asked += [(position, token["id"]) for token in (output or {"top": []})["top"][:TOKENS]]
    for key in range(position + 1) if length <= 2 * CLOSE_POSITIONS else ():
        _ask(data, view, "lookers", pos=position, key=key)


def _attributions(data: _Data, view: View) -> None:
    """Of all positions and tokens together: each weight is then read once."""
    record = view.first.record
    try:
        told = attributions(record, data.asked)
    except PellucidError:
        return
    for (position, token), one in zip(data.asked, told, strict=True):
        data.answer(address("attribution", {"pos": position, "token": token}), plain(attribution_json(record, one)))


def _pattern(data: _Data, view: View, layer: int) -> bool:
    """A layer's attention in 8 bits: it comes before what fewer readers look at."""
    record, name = view.first.record, f"layers.{layer}.pattern"
    if name not in record or record[name].numel() * 4 / 3 > data.room * PATTERNS / max(1, layer + 1):
        return False
    value = record[name].float().cpu().numpy()
    packed = base64.b64encode((value * 255).round().astype("u1").tobytes()).decode()
    tensor = {"shape": list(value.shape), "data": packed, "bits": 8}
    return data.fits(data.tensors, name, tensor) and _ask(data, view, f"step/{name}") is not None


def _layer(data: _Data, view: View, layer: int) -> bool:
    """A layer whole, or not at all."""
    record, before = view.first.record, (dict(data.answers), dict(data.tensors), data.room)
    names = [name for name in record if record.taps[name].layer == layer]
    weights = [
        name
        for name in dict(view.subject.decoder.named_parameters())
        if name.startswith(f"layers.{layer}.") and "norm" in name
    ]
    done = bool(names) and all(
        _ask(data, view, f"step/{name}") is not None and _tensor(data, view, name) for name in names
    )
    done = done and all(_weight(data, view, name) for name in weights)
    if not done:
        data.answers, data.tensors, data.room = before
    return done


def _tensor(data: _Data, view: View, name: str) -> bool:
    value = view.first.record[name]
    return data.tensor(name, value.float().cpu().contiguous().numpy(), value.shape)


def _weight(data: _Data, view: View, name: str) -> bool:
    """Whole where it is small, else its thumbnail."""
    if name in data.tensors:
        return True
    tile = view.tile(name, {"most": "96"})
    return data.tensor(name, tile.data, tile.data.shape, (tile.row_step, tile.col_step))


def _walks(view: View, pins: Sequence[Pin]) -> Iterator[tuple[str, Any]]:
    """The operands of each pinned cell and of the cells that weigh most in it, a few steps back."""
    seen: set[str] = set()
    now = [(name, tuple(index)) for name, index in pins]
    for _ in range(WALK + 1):
        after: list[tuple[str, tuple[int, ...]]] = []
        for name, index in now:
            params = {"index": ",".join(map(str, index))}
            key = address(f"cell/{name}", params)
            if key in seen:
                continue
            seen.add(key)
            try:
                cell = view.answer(f"cell/{name}", params)
            except PellucidError:
                continue
            yield key, cell
            near = [*cell["leads"], *(operand for term in cell["terms"] for operand in term["cells"])]
            after += [(operand["name"], tuple(operand["index"])) for operand in near if operand["source"] != "token"][
                :BREADTH
            ]
        now = after


def _order(num_layers: int) -> list[int]:
    """The middle (where the page opens), the ends, then evenly between."""
    order = [num_layers // 2, 0, num_layers - 1]
    step = num_layers
    while step > 1:
        step = step // 2
        order += range(0, num_layers, step)
    return list(dict.fromkeys(order))


def _ranges(numbers: Sequence[int]) -> str:
    """0–3, 7"""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs) or "–"


# --- one file ------------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """JSON that cannot end its own script block, begin a comment, or break a line where JavaScript would."""
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def _shell(data: str) -> str:
    page = {name: content.decode() for name, content in page_files().items()}
    script, style = bundle(page), page["style.css"]
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    html = page["index.html"]
    html = html.replace(
        '<meta name="referrer"',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<meta name="referrer"',
    )
    html = html.replace('<link rel="stylesheet" href="style.css">', f"<style>{style}</style>")
    html = html.replace('<script type="module" src="main.js"></script>\n', "")
    block = f'<script type="application/json" id="pellucid-data">{escape(data)}</script>'
    return html.replace("</body>", f"{block}\n<script>{script}</script>\n</body>")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_IMPORT = re.compile(r"""^import\s*\{([\w\s,$]*)\}\s*from\s*["'](\.{1,2}/[\w./]+)["'];?[^\S\n]*$""", re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const|let) (\w+))", re.M)


def bundle(page: Mapping[str, str]) -> str:
    """The modules as one script, each in a function of its own, those that others import first.

    Of the forms that JavaScript has, ours are ``import { a, b as c } from "./x.js"``, on one line or several, and
    ``export`` before a declaration; another is an error and not left in the script.
    """
    done: dict[str, str] = {}

    def add(name: str) -> None:
        source, folder = page[name], posixpath.dirname(name)
        if name in done:
            return
        for _, path in _IMPORT.findall(source):
            add(posixpath.normpath(posixpath.join(folder, path)))

        def bind(match: re.Match[str]) -> str:
            module = posixpath.normpath(posixpath.join(folder, match[2]))
            names = ", ".join(name.strip().replace(" as ", ": ") for name in match[1].split(",") if name.strip())
            return f'const {{ {names} }} = modules["{module}"];'

        names = ", ".join(_EXPORT.findall(source))
        done[name] = (
            f'(() => {{\n{_EXPORT.sub("", _IMPORT.sub(bind, source))}\nmodules["{name}"] = {{ {names} }};\n}})();'
        )

    add("main.js")
    script = '"use strict";\nconst modules = {};\n' + "\n".join(done.values())
    assert not re.search(r"</script|<!--", script, re.I), "the page's code must not end its own script block"
    left = re.search(r"^(?:import|export)\b.*$", script, re.M)
    assert left is None, f"a form of import or export that bundle does not know: {left}"
    return script
