"""The reference that every executor is held to: the whole forward in float64, from its description, step by step."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from pellucid.config import ModelConfig
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.places import Places
from pellucid.operations.taps import taps_of


def reference(
    config: ModelConfig,
    weights: Weights,
    token_ids: Any,
    *,
    positions: Any = None,
    mask: Any = None,
    wanted: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Tap path → float64 values, in the order of computation: ``reference(…)["logits"]`` is (T, V).

    ``token_ids``: one text, (T,), or several, (B, T), padded where ``mask`` is False; every array then has a leading
    axis. ``weights``: name → array of any float type, as ``weight_shapes`` names them. ``positions``: each token's
    place in its own text. ``wanted``: the paths to keep (None: all); a long text's scores need not all be in memory.
    """
    places, taps = Places.whole(token_ids, positions, mask), taps_of(config)
    last_use = {source: path for path, tap in taps.items() for source in tap.inputs}
    values: dict[str, Numbers] = {}
    kept: dict[str, Numbers] = {}
    for path, tap in taps.items():
        values[path] = tap.operation.reference([values[source] for source in tap.inputs], weights, places)
        if wanted is None or path in wanted:
            kept[path] = values[path]
        for source in tap.inputs:
            if last_use[source] == path:
                values.pop(source, None)
    return kept
