"""A checkpoint in the parts that several processes wrote: read as one, and believed only as far as it agrees with
itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import telling

from pellucid.base.array import Array
from pellucid.base.errors import PellucidError
from pellucid.base.files import file_sha256, write_json
from pellucid.checkpoint.files.distributed import (
    INDEX,
    DistributedTensors,
    PartFile,
    Rows,
    Spread,
    part_name,
    write_index,
)
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.checkpoint.open import open_checkpoint
from pellucid.checkpoint.save import description
from pellucid.cli.app import app
from pellucid.config import weight_shapes
from pellucid.families import FAMILIES


def write_parts(folder: Path, arrays: dict[str, np.ndarray], count: int) -> None:
    """As ``count`` processes would: rows cut as evenly as can be, the first with more; a scalar by the first."""
    parts: list[dict[str, Array]] = [{} for _ in range(count)]
    spread = {}
    for name, data in arrays.items():
        per = -(-len(data) // count) if data.ndim else 1
        edges = [(i, i * per, min((i + 1) * per, len(data) if data.ndim else 1)) for i in range(count)]
        rows = tuple(Rows(*one) for one in edges if one[1] < one[2])
        for one in rows:
            parts[one.file][name] = Array.from_numpy(data[one.start : one.stop] if data.ndim else data)
        spread[name] = Spread("float32", data.shape, rows)
    paths = [save_safetensors(folder / part_name(rank, count), part)[0] for rank, part in enumerate(parts)]
    write_index(folder, [PartFile(path.name, path.stat().st_size, file_sha256(path)) for path in paths], spread)


def small(folder: Path) -> Path:
    write_parts(
        folder,
        {"model.w": np.arange(15, dtype=np.float32).reshape(5, 3), "optimizer.0.w.step": np.array(7, np.float32)},
        2,
    )
    return folder


def altered(folder: Path, **changes: Any) -> Path:
    """``small``, whose index says something else."""
    index = json.loads((small(folder) / INDEX).read_text())
    for name, value in changes.items():
        at = index if name in index else index["tensors"]["model.w"]
        at[name] = value
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_the_parts_are_put_together(tmp_path: Path) -> None:
    tensors = DistributedTensors(small(tmp_path))
    assert tensors["model.w"].data.tolist() == np.arange(15).reshape(5, 3).tolist()
    assert (tensors["optimizer.0.w.step"].shape, tensors["optimizer.0.w.step"].data.item()) == ((), 7)
    assert tensors.spread["model.w"].rows == (Rows(0, 0, 3), Rows(1, 3, 5))


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 7), max_size=3), count=st.integers(1, 5))
def test_any_shape_over_any_number_of_processes(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], count: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    data = np.random.default_rng(0).random(shape, np.float32)
    write_parts(folder, {"model.w": data}, count)
    assert np.array_equal(DistributedTensors(folder)["model.w"].data, data)


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_every_family_opens_in_parts(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family].config(FAMILIES[family].TINY)
    random = np.random.default_rng(0)
    weights = {name: random.random(shape, np.float32) for name, shape in weight_shapes(config).items()}
    write_parts(tmp_path, {f"model.{name}": data for name, data in weights.items()}, 3)
    write_json(tmp_path / "config.json", description(config, "float32"))
    opened = open_checkpoint(tmp_path)
    assert (opened.kind, opened.config) == ("distributed", config)
    for name, data in weights.items():
        assert np.array_equal(opened.weights[name].data, data), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": [[0, 0, 3]]}, "every row, once"),
        ({"rows": [[0, 0, 3], [1, 4, 5]]}, "every row, once"),
        ({"rows": [[0, 0, 3], [1, 2, 5]]}, "every row, once"),
        ({"rows": [[0, 0, 3], [1, 3, 6]]}, "every row, once"),
        ({"rows": [[0, 0, 3], [2, 3, 5]]}, "every row, once"),
        ({"rows": [[0, 0, 3], [1, 3, 3], [1, 3, 5]]}, "every row, once"),
        ({"rows": [[0, 0, 3], [1, 3]]}, "every row, once"),
        ({"rows": []}, "every row, once"),
        ({"rows": None}, "not described"),
        ({"shape": [-5, 3]}, "not described"),
        ({"shape": [5, True]}, "not described"),
        ({"shape": [5, 10**12]}, "not there as the index says"),
        ({"dtype": "float64"}, "not there as the index says"),
        ({"dtype": "float31"}, "not described"),
        ({"dtype": ["float32"]}, "not described"),
        ({"files": [{"name": "../x.safetensors", "bytes": 1, "sha256": ""}] * 2}, "outside its folder"),
        ({"files": [{"name": "process-00001-of-00002.safetensors", "bytes": 1, "sha256": ""}] * 2}, "damaged"),
        (
            {"files": [{"name": "process-00001-of-00002.safetensors", "bytes": "1", "sha256": ""}] * 2},
            "needs name, bytes",
        ),
        ({"files": None}, "lacks its files"),
        ({"tensors": []}, "lacks its files"),
        ({"format": 2}, "does not know"),
    ],
)
def test_an_index_that_lies_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(PellucidError, match=said):
        DistributedTensors(altered(tmp_path, **changes))["model.w"]


def test_a_part_that_is_absent_is_named(tmp_path: Path) -> None:
    (small(tmp_path) / part_name(1, 2)).unlink()
    with pytest.raises(PellucidError, match="process-00002-of-00002"):
        DistributedTensors(tmp_path)["model.w"]


def test_convert_makes_one_model_of_the_parts(tmp_path: Path) -> None:
    config = FAMILIES["chatglm"].config(FAMILIES["chatglm"].TINY)
    weights = {
        name: np.random.default_rng(0).random(shape, np.float32) for name, shape in weight_shapes(config).items()
    }
    write_parts(tmp_path / "parts", {f"model.{name}": data for name, data in weights.items()}, 2)
    write_json(tmp_path / "parts/config.json", description(config, "float32"))
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "parts"), str(tmp_path / "whole")])
    assert result.exception is None, result.output
    whole = open_checkpoint(tmp_path / "whole")
    assert (whole.kind, whole.config) == ("safetensors", config)
    assert all(np.array_equal(whole.weights[name].data, data) for name, data in weights.items())
