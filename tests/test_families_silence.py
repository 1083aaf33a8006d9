"""A config.json that leaves a key out means what transformers' class of that name has for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import isclose
from typing import Any

import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError

from pellucid.base.errors import PellucidError
from pellucid.families import FAMILIES

NOT_THE_MODEL = ("extra", "dtype", "bos_token_id", "eos_token_ids", "pad_token_id")
THEIRS = [name for name in FAMILIES if name in transformers.CONFIG_MAPPING]


def differences(name: str, ours: Any, theirs: Any) -> Iterator[str]:
    kind = type(ours)
    if is_dataclass(kind) and kind is type(theirs):
        for field in fields(kind):
            if field.name == "scale" and hasattr(ours, "softmax_scale"):
                yield from differences(f"{name}.scale", ours.softmax_scale, theirs.softmax_scale)
            elif field.name not in NOT_THE_MODEL:
                yield from differences(f"{name}.{field.name}", getattr(ours, field.name), getattr(theirs, field.name))
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(f"{name}.{i}", *pair)
    elif not (ours == theirs or (isinstance(ours, float) and isinstance(theirs, float) and isclose(ours, theirs))):
        yield f"{name}: {ours!r} here, {theirs!r} in transformers"


@pytest.mark.parametrize("name", THEIRS)
def test_a_key_that_is_left_out_means_what_transformers_has(name: str) -> None:
    family = FAMILIES[name]
    for key in family.TINY.keys() - {"model_type"}:
        silent = {other: value for other, value in family.TINY.items() if other != key}
        try:
            theirs = family.config(transformers.AutoConfig.for_model(**silent).to_dict())
            ours = family.config(silent)
        except (PellucidError, ValueError, TypeError, AttributeError, LookupError, StrictDataclassError):
            continue  # neither of them opens it without, or transformers' default goes with nothing else of TINY
        assert not list(differences(f"without {key}", ours, theirs))
