"""Causes for an offline file: the answers that the page's own sections ask for, where the runs that they take are few.

The page asks for its maps in groups of layers and by the tokens of the likeliest answers; what is asked here is what it
will ask for, so the groups are the page's (``causes.js``, ``fact.js``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pellucid.base.errors import PellucidError
from pellucid.explain.show.view import View

CAUSES, FACT = 6, 5  # groups of a map
DOSES = 10  # parts whose slider moves, those that matter most
MOST = 6e11  # multiplications that a file's maps may take: a few seconds

Ask = Callable[..., Any]  # (path, **params) -> the answer, embedded


def embed_causes(view: View, ask: Ask, embed: Callable[[str, Any], bool]) -> bool:
    """Whether they are in the file: all of them or, where they would take too long, none."""
    run, config = view.first, view.subject.decoder.config
    parts = sum((layer.attends.num_heads if layer.attends else 1) + 1 for layer in config.layers)
    if (parts + config.num_layers * run.length) / 2 * run.length * config.num_parameters() > MOST:
        return False
    last = run.length - 1
    if not (chosen := ask("contrast", pos=last)):
        return False
    asked = {"pos": last, "a": chosen["a"]["id"], "b": chosen["b"]["id"]}
    effects = []
    for span in _spans(config.num_layers, CAUSES):
        effects += (ask("causes", **asked, layers=span) or {"parts": []})["parts"]
    for part in sorted(effects, key=lambda part: -abs(part["change"]))[:DOSES]:
        ask("dose", **asked, path=part["path"], **({} if part["head"] is None else {"head": part["head"]}))
        if part["head"] is not None:
            ask("card", layer=part["layer"], head=part["head"], pos=last)
    for key in range(run.length):
        ask("looks", pos=last, key=key)
    _fact(view, ask, embed)
    return True


def _fact(view: View, ask: Ask, embed: Callable[[str, Any], bool]) -> None:
    try:
        pair = view.order("pair", {"run": view.first.name})
    except PellucidError:
        return
    if pair is None or not embed("pair", pair):
        return
    first, last, layers = pair["first"], pair["source_answers"]["position"], view.subject.decoder.config.num_layers
    asked = {"target": pair["target"], "pos": last} | {key: pair["source_answers"][key]["id"] for key in "ab"}
    rows: dict[int, list[float]] = {}
    for span in _spans(layers + 1, FACT):
        told = ask("patch", **asked, first=first, rows=span)
        rows |= {int(row): shares for row, shares in (told or {"rows": {}})["rows"].items()}
    if len(rows) == layers + 1:
        for token in range(first, last + 1):  # what moved it to each token, where it gained most
            layer = max(range(layers), key=lambda layer: rows[layer + 1][token] - rows[layer][token])
            ask("movers", **asked, first=first, layer=layer, token=token)


def _spans(count: int, groups: int) -> Iterator[str]:
    """As ``inGroups`` in contrast.js has them: the last first."""
    step, stop = max(1, -(-count // groups)), count
    while stop > 0:
        yield f"{max(0, stop - step)}:{stop}"
        stop -= step
