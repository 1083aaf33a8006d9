"""What the page asks for, as JSON and slices of tensors: the same answers for a live server and for an offline file.

A question is a path and parameters, all text, as they stand in an address: ``cell/layers.3.pattern``,
``index=0,2,5,3``. Every answer comes from the trace of a run or from the model's own weights; nothing is made up for
display.
"""

from __future__ import annotations

import linecache
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pellucid
from pellucid.base.errors import PellucidError, RequestError
from pellucid.explain.decoding import Decoding, Generation, NativeDecoding
from pellucid.explain.edits import Ablate, Edit, Patch, SwapToken
from pellucid.explain.native import NativeTrace
from pellucid.explain.questions.attribution import attribution
from pellucid.explain.questions.lens import lens
from pellucid.explain.questions.operands import operands
from pellucid.explain.show.answers import NoSuchQuestionError, Params, Tile, plain
from pellucid.explain.show.mathml import mathml
from pellucid.explain.show.view_model import Subject, describe, histogram
from pellucid.explain.show.view_text import text_details
from pellucid.explain.trace import Trace, trace
from pellucid.model.context import Context

if TYPE_CHECKING:
    from pellucid.explain.training.view import Training

KEPT_RUNS = 3
TOP = 256  # tokens of a distribution that are named; the rest come as numbers
TERMS = 40
SHOWN_DIMENSIONS = 24
MAX_TEXT = 20_000
DEFAULT_TEXT = "The capital of France is"
BIGGEST_TILE = 4_000_000  # values


@dataclass
class Run:
    """A trace with what the page shows of it."""

    name: str
    trace: Trace
    text: str
    traced_ms: float
    plain_ms: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    decoding: Generation | None = None

    @property
    def length(self) -> int:
        return self.trace.token_ids.shape[1]


class View:
    """Answers the page's questions about one model (and others to compare it with). Thread-safe: the model runs under
    one lock.
    """

    def __init__(
        self,
        subject: Subject,
        text: str = DEFAULT_TEXT,
        *,
        first: Trace | None = None,
        others: Mapping[str, Subject] | None = None,
        training: Training | None = None,
    ) -> None:
        """``training`` is the run that the model comes from, where its record is at hand."""
        self.subject, self.text, self.others, self.training = subject, text, dict(others or {}), training
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.RLock()
        self.first = self._add(first, 0.0) if first is not None else self._trace(text)
        self.text = self.first.text
        self._questions: dict[str, Callable[[str, Params], Any]] = {
            "model": lambda _, params: {**describe(self.subject), "text": self.text, "others": list(self.others)},
            "run": lambda _, params: self.summary(self._run(params)),
            "checks": lambda _, params: self._checks(self._run(params)),
            "text": lambda _, params: text_details(self.subject.tokenizer, self._run(params).text, self._ids(params)),
            "batch": lambda _, params: self._batch(self._run(params)),
            "histogram": lambda name, params: histogram(self.weight(name)),
            "step": self._step,
            "cell": self._cell,
            "precision": lambda _, params: self._precision(self._run(params)),
            "norms": lambda _, params: self._norms(self._run(params)),
            "lens": self._lens,
            "attribution": self._attribution,
            "lookers": self._lookers,
            "output": self._output,
            "surprise": lambda _, params: self._surprise(self._run(params)),
            "compare": lambda _, params: self._compare(self._run(params), params.get("other", "")),
            "training": lambda name, params: None if self.training is None else self.training.answer(name, params),
        }
        self._orders: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "trace": lambda body: self.summary(self._trace(_text(body, "text"))),
            "generate": self._generate,
            "whatif": self._whatif,
            "surprise": self._surprise_of,
        }

    def answer(self, path: str, params: Params) -> Any:
        """The JSON answer to a question. Raises: NoSuchQuestionError; RequestError for parameters out of range."""
        kind, _, name = path.partition("/")
        if kind not in self._questions:
            raise NoSuchQuestionError(f"there is no question {path!r}", expected=", ".join(self._questions))
        return plain(self._questions[kind](name, params))

    def order(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to an order that runs the model. Raises: as ``answer``."""
        if path not in self._orders:
            raise NoSuchQuestionError(f"there is no order {path!r}", expected=", ".join(self._orders))
        with self._lock:
            return plain(self._orders[path](body))

    @torch.no_grad()
    def tile(self, name: str, params: Params) -> Tile:
        """Two axes of a step or a weight: ``at`` fixes the leading ones, ``rows`` and ``cols`` cut, ``most`` bounds a
        thumbnail's sides.

        Raises: RequestError for a name or a range that is not there.
        """
        if self.training is not None and name.startswith("training."):
            return self.training.tile(name.removeprefix("training."), params)
        at, tensor = _indices(params.get("at", "")), self.tensor(name, params)
        tensor = tensor[None] if tensor.ndim == 1 else tensor
        if len(at) != tensor.ndim - 2 or any(not 0 <= i < size for i, size in zip(at, tensor.shape, strict=False)):
            raise RequestError(
                "there is no such slice",
                where=name,
                expected=f"{tensor.ndim - 2} indices below {tuple(tensor.shape[:-2])}",
                received=at,
            )
        part = tensor[tuple(at)]
        part = part[_range(params.get("rows"), part.shape[0], name), _range(params.get("cols"), part.shape[1], name)]
        most = int(params.get("most") or 0)
        row_step, col_step = (math.ceil(side / most) if most > 0 else 1 for side in part.shape)
        if part.numel() / (row_step * col_step) > BIGGEST_TILE:
            raise RequestError(
                "this tile is too large",
                where=name,
                expected=f"at most {BIGGEST_TILE} values",
                received=part.numel(),
                remedy="ask for most=",
            )
        if row_step * col_step > 1:
            part = largest_in_blocks(part.float(), row_step, col_step)
        return Tile(part.float().cpu().contiguous().numpy(), row_step, col_step)

    def tensor(self, name: str, params: Params) -> Tensor:
        its = self._run(params).trace
        return its[name] if name in its.taps else self.weight(name)

    def weight(self, name: str) -> Tensor:
        try:
            return self.subject.decoder.get_parameter(name)
        except AttributeError:
            raise RequestError("there is no step or weight of this name", received=name) from None

    # --- runs --------------------------------------------------------------------------------------------------------

    def _run(self, params: Mapping[str, Any]) -> Run:
        name = params.get("run") or self.first.name
        if name not in self._runs:
            raise RequestError("this run is no longer kept", received=name, remedy="run the sentence again")
        return self._runs[name]

    def _trace(self, text: str, edits: Sequence[Edit | SwapToken] = (), ids: Sequence[int] | None = None) -> Run:
        with self._lock:
            start = time.perf_counter()
            found = self.subject.trace(list(ids) if ids is not None else text, edits)
            return self._add(found, (time.perf_counter() - start) * 1000, text)

    @torch.no_grad()
    def _add(self, found: Trace, traced_ms: float, text: str | None = None) -> Run:
        plain_ms = self._logits(found.tokens[0], len(found.tokens[0]) - 1)[1]
        if text is None:
            texts = found.prompt.texts
            text = texts[0] if texts else "".join(found.pieces[0])
        run = Run(secrets.token_hex(4), found, text, traced_ms, plain_ms)
        self._runs[run.name] = run
        while len(self._runs) > KEPT_RUNS:  # the first stays: links without a run mean it
            oldest = next(name for name in self._runs if name != self.first.name)
            del self._runs[oldest]
        return run

    @torch.no_grad()
    def _logits(self, ids: Sequence[int], first: int) -> tuple[Tensor, float]:
        """(T − first, V) logits of a run in which nothing is recorded, and the milliseconds it took."""
        if self.subject.native is not None:
            return self.subject.native.logits(ids, first)
        decoder, start = self.subject.decoder, time.perf_counter()
        given = torch.tensor([list(ids)], device=decoder.device)
        ctx = Context(torch.arange(given.shape[1], device=decoder.device)[None])
        logits = decoder.logits(decoder.hidden(given, ctx)[0, first:], ctx)
        return logits, (time.perf_counter() - start) * 1000

    def summary(self, run: Run) -> dict[str, Any]:
        its, special = run.trace, _special_ids(self.subject.tokenizer)
        return {
            "run": run.name,
            "text": run.text,
            "tokens": [{"id": i, "text": its.piece(i), "special": i in special} for i in its.tokens[0]],
            "steps": [{"name": name, "shape": list(value.shape)} for name, value in its.items()],
            "next": self._top(its["logits"][0, -1], its, 12),
            "edited": "; ".join(str(edit) for edit in its.edits),
            "traced_ms": run.traced_ms,
            "plain_ms": run.plain_ms,
            "bytes": its.nbytes,
        }

    def _checks(self, run: Run) -> dict[str, Any]:
        with run.lock:  # it reads what was recorded; the model's own lock stays free for the pictures
            checks = run.trace.checks
        return {
            "count": len(checks),
            "largest": max((check.error for check in checks), default=0.0),
            "failed": [check.to_json() for check in checks.failed],
            "worst": [check.to_json() for check in checks.worst()],
        }

    # --- questions ---------------------------------------------------------------------------------------------------

    def _step(self, name: str, params: Params) -> dict[str, Any]:
        found = self._run(params).trace.step(name).to_json()
        file, _, line = found["code"].rpartition(":")
        found["code_text"] = linecache.getline(
            str(Path(pellucid.__file__).parent.parent / file), int(line or 0)
        ).strip()
        return found

    def _precision(self, run: Run) -> dict[str, Any] | None:
        """How far a native run is from torch's float32, step by step; None where torch ran."""
        its = run.trace
        if not isinstance(its, NativeTrace):
            return None
        with run.lock:
            return {
                "steps": [deviation.to_json() for deviation in its.deviations.values()],
                "recomputed": sorted(its.recomputed),
                "kl": its.kl.tolist(),
                "same": its.same_choice,
            }

    def _cell(self, name: str, params: Params) -> dict[str, Any]:
        its, index = self._run(params).trace, _indices(params.get("index", ""))
        if name not in its.taps:
            weight = self.weight(name)
            if len(index) != weight.ndim or any(not 0 <= i < size for i, size in zip(index, weight.shape, strict=True)):
                raise RequestError(
                    "there is no such cell",
                    where=name,
                    expected=f"an index below {tuple(weight.shape)}",
                    received=index,
                )
            return {
                "name": name,
                "index": index,
                "kind": "weight",
                "value": weight[tuple(index)].item(),
                "terms": [],
                "leads": [],
                "parts": {},
            }
        found, step = operands(its, name, index, max_terms=TERMS), its.step(name)
        its_json = found.to_json()
        return {
            **its_json,
            "value": "-inf" if found.value == -math.inf else its_json["value"],
            "mathml": mathml(step.latex),
            "numbers": mathml(found.latex),
            "title": {"en": step.title, "zh": step.title_zh},
            "meaning": {"en": step.meaning, "zh": step.meaning_zh},
        }

    def _batch(self, run: Run) -> dict[str, Any]:
        """The notes' texts as a block of embeddings: of each token, the first numbers of its row."""
        rows = text_details(self.subject.tokenizer, run.text, run.trace.tokens[0])["batch"]["rows"]
        table = self.weight("embed.weight")
        for cell in (cell for row in rows for cell in row):
            cell["row"] = [round(value, 5) for value in table[cell["id"], :SHOWN_DIMENSIONS].float().tolist()]
        return {"rows": rows, "shape": [len(rows), max(map(len, rows)), table.shape[1]]}

    def _norms(self, run: Run) -> dict[str, Any]:
        its = run.trace
        names = [name for name in _stream(its) if name in its]
        norms = torch.stack([torch.linalg.vector_norm(its[name][0].float(), dim=-1) for name in names], 1)
        return {"names": names, "norms": norms.tolist()}

    def _lens(self, _: str, params: Params) -> dict[str, Any]:
        run = self._run(params)
        positions = _indices(params.get("positions", str(run.length - 1)))[:16]
        with self._lock:
            found = lens(run.trace, positions=positions, k=4)
        piece = run.trace.piece
        layers = [
            [
                {"p": p[0], "top": [{"id": i, "text": piece(i), "p": its} for i, its in zip(ids, p, strict=True)]}
                for ids, p in zip(layer[0], probabilities[0], strict=True)
            ]
            for layer, probabilities in zip(found.top_ids.tolist(), found.top_probabilities.tolist(), strict=True)
        ]
        return {"names": found.names, "layers": layers, "positions": found.positions}

    def _attribution(self, _: str, params: Params) -> dict[str, Any]:
        run = self._run(params)
        token, against = params.get("token"), params.get("against")
        with self._lock:
            found = attribution(
                run.trace,
                int(params.get("pos", -1)),
                None if token is None else int(token),
                against=int(against) if against else None,
            )
        parts: OrderedDict[tuple[str, int | None], float] = OrderedDict()
        for part in found.parts:  # heads of a layer together; constants together
            what = {"head": "attention"}.get(part.kind, part.kind)
            key = (what, part.layer if what != "bias" else None)
            parts[key] = parts.get(key, 0.0) + part.value
        return {
            "text": run.trace.piece(found.token),
            "against": None if found.against is None else run.trace.piece(found.against),
            "token": found.token,
            "logit": found.logit,
            "total": sum(parts.values()),
            "parts": [{"what": what, "layer": layer, "value": value} for (what, layer), value in parts.items()],
            "heads": [
                {"what": "attention", "layer": part.layer, "head": part.head, "value": part.value}
                for part in found.heads()
            ],
            "neurons": [
                {"what": "mlp", "layer": n.layer, "neuron": n.neuron, "value": n.value} for n in found.neurons(40)
            ],
        }

    def _lookers(self, _: str, params: Params) -> dict[str, Any]:
        """Which heads, of all layers, look most from one position to another."""
        its = self._run(params).trace
        query, key = int(params.get("pos", -1)), int(params.get("key", 0))
        found = [
            {"layer": tap.layer, "head": head, "p": p}
            for name, tap in its.taps.items()
            if tap.name == "pattern" and name in its
            for head, p in enumerate(its[name][0, :, its.column(name, query), key].tolist())
        ]
        return {"heads": sorted(found, key=lambda head: -head["p"])[:8], "of": len(found)}

    def _output(self, _: str, params: Params) -> dict[str, Any]:
        its = self._run(params).trace
        logits = its["logits"][0, its.column("logits", int(params.get("pos", -1)))].float()
        return {"top": self._top(logits, its, TOP), "logsumexp": float(logits.logsumexp(-1)), "vocab": len(logits)}

    def _top(self, logits: Tensor, its: Trace, count: int) -> list[dict[str, Any]]:
        best, p = logits.float().topk(min(count, logits.shape[-1])), logits.float().softmax(-1)
        return [
            {"id": i, "text": its.piece(i), "logit": logit, "p": float(p[i])}
            for logit, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _surprise(self, run: Run) -> dict[str, Any]:
        found, its = run.trace.surprise(), run.trace
        if run.length < 2:
            raise RequestError("a text of one token has no next token to be surprised by")
        rows = zip(found.targets[0].tolist()[:-1], found.nats[0].tolist(), found.probability[0].tolist(), strict=False)
        return {
            "mean": found.mean_nats,
            "tokens": [{"id": i, "text": its.piece(i), "nats": nats, "p": p} for i, nats, p in rows],
        }

    # --- orders ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _surprise_of(self, body: Mapping[str, Any]) -> dict[str, Any]:
        run, target = self._run(body), _text(body, "target")
        added = self.subject.tokenizer(target, add_special_tokens=False)["input_ids"]
        if not added:
            raise RequestError("the continuation has no tokens")
        logits = self._logits(run.trace.tokens[0] + added, run.length - 1)[0][:-1].float()
        nats = F.cross_entropy(logits, torch.tensor(added, device=logits.device), reduction="none").tolist()
        return {
            "mean": sum(nats) / len(nats),
            "tokens": [
                {"id": i, "text": run.trace.piece(i), "nats": n, "p": math.exp(-n)}
                for i, n in zip(added, nats, strict=True)
            ],
        }

    def _generate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        run = self._run(body)
        made, token = [int(i) for i in body.get("ids", [])], body.get("token")
        if run.decoding is None:
            native, prompt = self.subject.native, run.trace.tokens[0]
            run.decoding = Decoding(self.subject.decoder, prompt) if native is None else NativeDecoding(native, prompt)
        prefill = run.decoding.catch_up(made)
        done = run.decoding.step(float(body.get("temperature", 0.0)), None if token is None else int(token))
        its = {
            "id": done.token,
            "text": run.trace.piece(done.token),
            "p": done.probability,
            "ms": done.milliseconds,
            "next": self._top(done.logits, run.trace, 8),
        }
        return {
            "token": {**its, "end": done.token in self.subject.decoder.config.eos_token_ids},
            "prefill": None if prefill is None else {"tokens": prefill.tokens, "ms": prefill.milliseconds},
            "cache": run.decoding.held(),
        }

    @torch.no_grad()
    def _whatif(self, body: Mapping[str, Any]) -> dict[str, Any]:
        run = self._run(body)
        edits = [self._edit(run, edit) for edit in body.get("edits", [])[:16]]
        new = self._trace(run.text, edits, run.trace.tokens[0])
        before, after = run.trace, new.trace
        p, q = before["logits"][0, -1].float().log_softmax(-1), after["logits"][0, -1].float().log_softmax(-1)
        ids = set(p.topk(8).indices.tolist()) | set(q.topk(8).indices.tolist())
        names = list(_stream(before))
        length = [torch.linalg.vector_norm(before[name][0].float(), dim=-1) for name in names]
        change = [
            torch.linalg.vector_norm((after[name] - before[name])[0].float(), dim=-1) / norm.clamp(min=1e-12)
            for name, norm in zip(names, length, strict=True)
        ]
        return {
            "run": new.name,
            "label": "; ".join(str(edit) for edit in edits),
            "before": self._top(before["logits"][0, -1], before, max(8, len(ids))),
            "after": self._top(after["logits"][0, -1], after, max(8, len(ids))),
            "kl": float((p.exp() * (p - q)).sum().clamp(min=0)),
            "names": names,
            "change": [row.clamp(max=1).tolist() for row in change],
        }

    def _edit(self, run: Run, edit: Mapping[str, Any]) -> Edit | SwapToken:
        kind, where, positions = edit.get("kind"), str(edit.get("where", "")), edit.get("positions")
        positions = None if positions is None else [int(i) for i in positions]
        if kind == "ablate":
            return Ablate(where, head=None if edit.get("head") is None else int(edit["head"]), positions=positions)
        if kind == "patch":
            other = trace(self.subject.decoder, self.subject.tokenizer, _text(edit, "text"), steps=[where])
            return Patch(where, other, positions=positions)
        if kind == "swap":
            token = str(edit.get("token", ""))
            return SwapToken(int(edit.get("position", 0)), int(token) if token.strip().isdigit() else token)
        raise RequestError(f"there is no edit {kind!r}", expected="ablate, patch or swap")

    @torch.no_grad()
    def _compare(self, run: Run, name: str) -> dict[str, Any]:
        if name not in self.others:
            raise RequestError("there is no such model to compare", expected=", ".join(self.others), received=name)
        other = self.others[name]
        with self._lock:
            theirs = (
                trace(other.decoder, other.tokenizer, run.text, steps=["logits"])
                if other.native is None
                else other.trace(run.text)
            )
        mine = run.trace
        same = mine.tokens == theirs.tokens and run.length > 1
        nats = [its.surprise().mean_nats if its.token_ids.shape[1] > 1 else None for its in (mine, theirs)]
        by_position = None
        if same:
            rows = zip(
                mine.tokens[0][1:], mine.surprise().nats[0].tolist(), theirs.surprise().nats[0].tolist(), strict=False
            )
            by_position = [[mine.piece(i), a, b] for i, a, b in rows][:60]
        return {
            "nats": nats,
            "next": [self._top(its["logits"][0, -1], its, 8) for its in (mine, theirs)],
            "nats_by_position": by_position,
        }

    def _ids(self, params: Params) -> list[int]:
        return self._run(params).trace.tokens[0]


def _stream(its: Trace) -> list[str]:
    return ["layers.0.resid_pre", *(f"layers.{i}.resid_post" for i in range(its.config.num_layers))]


def _special_ids(tokenizer: Any) -> set[int]:
    return set(getattr(tokenizer, "all_special_ids", None) or ())


def _indices(text: str) -> list[int]:
    try:
        return [int(i) for i in text.split(",")] if text else []
    except ValueError:
        raise RequestError("an index is whole numbers and commas", received=text) from None


def _range(text: str | None, size: int, name: str) -> slice:
    if not text:
        return slice(0, size)
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop) <= size):
        raise RequestError("there is no such range", where=name, expected=f"a:b within 0:{size}", received=text)
    return slice(int(start), int(stop))


def _text(body: Mapping[str, Any], key: str) -> str:
    text = body.get(key)
    if not isinstance(text, str) or not text or len(text) > MAX_TEXT:
        raise RequestError(f"{key} must be a text", expected=f"1 to {MAX_TEXT} characters")
    return text


def largest_in_blocks(x: Tensor, row_step: int, col_step: int) -> Tensor:
    """(R, C) → (⌈R/row_step⌉, ⌈C/col_step⌉): of each block, the value of largest size, with its sign."""

    def most(values: Tensor) -> Tensor:
        return F.max_pool2d(values[None, None], (row_step, col_step), ceil_mode=True)[0, 0]

    finite = x.nan_to_num(neginf=0.0)
    high, low = most(finite), most(-finite)
    return torch.where(high >= low, high, -low)


__all__ = ["NoSuchQuestionError", "PellucidError", "Run", "Tile", "View", "largest_in_blocks", "plain"]
