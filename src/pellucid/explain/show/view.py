"""What the page asks for, as JSON and slices of tensors: the same answers for a live server and for an offline file.

A question is a path and parameters, all text, as they stand in an address: ``cell/layers.3.pattern``,
``index=0,2,5,3``. Every answer comes from the record of a run or from the model's own weights.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.edits import Edit, SwapToken
from pellucid.explain.prompt import raw_bytes
from pellucid.explain.questions.cards import habits_of
from pellucid.explain.questions.pairs import proposed_pair
from pellucid.explain.record import Record
from pellucid.explain.show import causes, orders, questions
from pellucid.explain.show.answers import NoSuchQuestionError, Params, Tile, plain
from pellucid.explain.show.runs import Run
from pellucid.explain.show.tiles import tile_of
from pellucid.explain.show.view_model import describe, histogram
from pellucid.explain.show.view_text import text_details
from pellucid.explain.subject import Subject
from pellucid.explain.training.view import Training

KEPT_RUNS = 3  # in memory; an older one is run again when somebody asks for it
KNOWN_RUNS = 200  # how many can be run again
SHOWN_DIMENSIONS = 24
DEFAULT_TEXT = "The capital of France is"


class View:
    """Answers the page's questions about one model (and others to compare it with). Thread-safe: the model runs under
    one lock.
    """

    def __init__(
        self,
        subject: Subject,
        text: str = DEFAULT_TEXT,
        *,
        first: Record | None = None,
        others: Mapping[str, Subject] | None = None,
        training: Training | None = None,
    ) -> None:
        """``training`` is the run that the model comes from, where its record is at hand."""
        self.subject, self.text, self.others, self.training = subject, text, dict(others or {}), training
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._again: OrderedDict[str, tuple[str, Callable[[], Record]]] = OrderedDict()
        self._lock = threading.RLock()
        self._heads: tuple[Tensor | None] | None = None  # their habits, once somebody has asked
        self.first = self._add(first, None) if first is not None else self._trace(text)
        self.text = self.first.text
        self._of_run: dict[str, Callable[[Run], Any]] = {
            "run": self.summary,
            "checks": questions.checks,
            "text": lambda run: text_details(self.subject.tokenizer, run.text, run.record.tokens[0]),
            "batch": self._batch,
            "precision": questions.precision,
            "norms": questions.norms,
            "surprise": questions.surprise_of_text,
        }
        self._of_run_at: dict[str, Callable[[Run, Params], Any]] = {
            "lens": lambda run, params: self._locked(questions.lens_at, run, params),
            "attribution": lambda run, params: self._locked(questions.attribution_at, run, params),
            "lookers": questions.lookers,
            "looks": causes.looks,
            "contrast": causes.contrast_at,
            "causes": lambda run, params: self._locked(causes.causes, run, params),
            "dose": lambda run, params: self._locked(causes.dose_of, run, params),
            "patch": lambda run, params: self._locked(causes.patch, run, self._run({"run": params["target"]}), params),
            "movers": lambda run, params: self._locked(
                causes.movers_of, run, self._run({"run": params["target"]}), params
            ),
            "hung_on": lambda run, params: self._locked(questions.hung_on, run, params),
            "output": questions.output,
            "card": lambda run, params: self._locked(causes.card, run, self._habits(), params),
            "compare": lambda run, params: self._locked(orders.beside, run, self._other(params.get("other", ""))),
        }
        self._of_name: dict[str, Callable[[str, Params], Any]] = {
            "model": lambda _, params: {**describe(self.subject), "text": self.text, "others": list(self.others)},
            "histogram": lambda name, params: histogram(self.weight(name)),
            "step": lambda name, params: questions.step(self._run(params), name),
            "cell": self._cell,
            "training": lambda name, params: None if self.training is None else self.training.answer(name, params),
        }
        self._orders: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "trace": lambda body: self.summary(self._trace(orders.text_in(body, "text"))),
            "generate": lambda body: orders.next_token(self.subject, self._run(body), body),
            "whatif": self._whatif,
            "pair": self._pair,
            "surprise": lambda body: orders.surprise_of_continuation(
                self.subject, self._run(body), orders.text_in(body, "target")
            ),
        }

    def answer(self, path: str, params: Params) -> Any:
        """The JSON answer to a question. Raises: NoSuchQuestionError; RequestError for parameters out of range."""
        kind, _, name = path.partition("/")
        if kind in self._of_run:
            return plain(self._of_run[kind](self._run(params)))
        if kind in self._of_run_at:
            return plain(self._of_run_at[kind](self._run(params), params))
        if kind in self._of_name:
            return plain(self._of_name[kind](name, params))
        known = ", ".join([*self._of_name, *self._of_run, *self._of_run_at])
        raise NoSuchQuestionError(f"there is no question {path!r}", expected=known)

    def order(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to an order that runs the model. Raises: as ``answer``."""
        if path not in self._orders:
            raise NoSuchQuestionError(f"there is no order {path!r}", expected=", ".join(self._orders))
        with self._lock:
            return plain(self._orders[path](body))

    @torch.no_grad()
    def tile(self, name: str, params: Params) -> Tile:
        """A rectangle of a step, a weight or a snapshot's matrix. Raises: RequestError for what is not there."""
        if self.training is not None and name.startswith("training."):
            return self.training.tile(name.removeprefix("training."), params)
        return tile_of(name, self.tensor(name, params), params)

    def tensor(self, name: str, params: Params) -> Tensor:
        record = self._run(params).record
        return record[name] if name in record.taps else self.weight(name)

    def weight(self, name: str) -> Tensor:
        try:
            return self.subject.decoder.get_parameter(name)
        except AttributeError:
            raise RequestError("there is no step or weight of this name", received=name) from None

    def summary(self, run: Run) -> dict[str, Any]:
        return run.summary(set(getattr(self.subject.tokenizer, "all_special_ids", None) or ()))

    # --- runs --------------------------------------------------------------------------------------------------------

    def _run(self, params: Mapping[str, Any]) -> Run:
        name = params.get("run") or self.first.name
        run = self._runs.get(name)
        if run is None:
            with self._lock:
                return self._runs.get(name) or self._revive(name)
        with suppress(KeyError):  # another question may have let it go
            self._runs.move_to_end(name)
        return run

    def _revive(self, name: str) -> Run:
        """A run that made room for others, once more: the same numbers under the same name."""
        if name not in self._again:
            raise RequestError("there is no such run", received=name, remedy="run the sentence again")
        text, record = self._again[name]
        start = time.perf_counter()
        recorded = record()
        traced_ms = (time.perf_counter() - start) * 1000
        plain_ms = self.subject.logits(recorded.tokens[0], len(recorded.tokens[0]) - 1)[1]
        return self._keep(Run(name, recorded, text, traced_ms, plain_ms))

    def _trace(self, text: str, edits: Sequence[Edit | SwapToken] = (), ids: Sequence[int] | None = None) -> Run:
        with self._lock:
            record = partial(self.subject.record, list(ids) if ids is not None else text, tuple(edits))
            start = time.perf_counter()
            recorded = record()
            run = self._add(recorded, (time.perf_counter() - start) * 1000, text)
            self._again[run.name] = (text, record)
            while len(self._again) > KNOWN_RUNS:
                self._again.popitem(last=False)
            return run

    def _add(self, record: Record, traced_ms: float | None, text: str | None = None) -> Run:
        plain_ms = self.subject.logits(record.tokens[0], len(record.tokens[0]) - 1)[1]
        if text is None:
            texts = record.prompt.texts
            text = texts[0] if texts else "".join(record.pieces[0])
        return self._keep(Run(secrets.token_hex(4), record, text, traced_ms, plain_ms))

    def _keep(self, run: Run) -> Run:
        self._runs[run.name] = run
        while len(self._runs) > KEPT_RUNS:  # the first stays: links without a run mean it, and its record may be all
            oldest = next(name for name in self._runs if name != self.first.name)
            del self._runs[oldest]
        return run

    def _locked(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            return ask(*arguments)

    # --- questions of the model as much as of a run ------------------------------------------------------------------

    def _cell(self, name: str, params: Params) -> dict[str, Any]:
        run = self._run(params)
        if name in run.record.taps:
            return questions.cell(run, name, params)
        return questions.cell_of_weight(name, self.weight(name), params)

    def _batch(self, run: Run) -> dict[str, Any]:
        """The notes' texts as a block of embeddings: of each token, the first numbers of its row."""
        rows = text_details(self.subject.tokenizer, run.text, run.record.tokens[0])["batch"]["rows"]
        table = self.weight("embed.weight")
        for cell in (cell for row in rows for cell in row):
            cell["row"] = [round(value, 5) for value in table[cell["id"], :SHOWN_DIMENSIONS].float().tolist()]
        return {"rows": rows, "shape": [len(rows), max(map(len, rows)), table.shape[1]]}

    def _other(self, name: str) -> Subject:
        if name not in self.others:
            raise RequestError("there is no such model to compare", expected=", ".join(self.others), received=name)
        return self.others[name]

    def _habits(self) -> Tensor | None:
        """Of every head, once for the model."""
        with self._lock:
            if self._heads is None:
                self._heads = (habits_of(self.subject.decoder, self.subject.tokenizer),)
            return self._heads[0]

    def _pair(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The run beside another: of a text that the reader gives, or of one that is proposed; None where none is."""
        run, text = self._run(body), str(body.get("text") or "")
        if text:
            target = self._trace(orders.text_in(body, "text"))
            return causes.pair_json(run, target, body.get("a"), body.get("b"), proposed=False)
        pair = proposed_pair(run.record)
        if pair is None:
            return None
        text = b"".join(raw_bytes(run.record.piece(i)) for i in pair.token_ids).decode(errors="replace")
        target = self._trace(text, ids=pair.token_ids)
        a, b = (f"#{i}" for i in (pair.contrast.a, pair.contrast.b))
        return causes.pair_json(run, target, body.get("a") or a, body.get("b") or b, proposed=True)

    def _whatif(self, body: Mapping[str, Any]) -> dict[str, Any]:
        run = self._run(body)
        edits = [orders.edit_in(self.subject, edit) for edit in body.get("edits", [])[:16]]
        return orders.difference(run, self._trace(run.text, edits, run.record.tokens[0]))


__all__ = ["NoSuchQuestionError", "Run", "Tile", "View"]
