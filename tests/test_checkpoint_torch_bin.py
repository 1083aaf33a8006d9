"""torch's ``.bin``: tensors are read, code in a pickle never runs."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.base.array import STORAGE
from pellucid.base.errors import CheckpointError, PellucidError, UnsupportedError
from pellucid.checkpoint import open_checkpoint
from pellucid.checkpoint.files.torch_bin import open_torch_bin
from pellucid.families import llama


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_dtype_reads_bit_for_bit(zipped: bool, tmp_path: Path):
    newer = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")  # than the older form
    names = [name for name in STORAGE if zipped or name not in newer]
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names}
    torch.save(tensors | {"t": tensors["float32"].T}, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    arrays = open_torch_bin(tmp_path / "x.bin")
    assert arrays.pop("t").data.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays.keys() == tensors.keys()
    for name, array in arrays.items():
        bits = tensors[name].view(torch.int16) if name == "bfloat16" else tensors[name]
        bits = bits.view(torch.uint8) if "float8" in name else bits
        assert (array.dtype, array.shape) == (name, (2, 3))
        assert array.data.tobytes() == bits.numpy().tobytes()


class Evil:
    """Unpickled without restriction, it would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_nothing_runs(form: str, tmp_path: Path):
    target, path = tmp_path / "touched", tmp_path / "pytorch_model.bin"
    state = {"w": torch.zeros(2), "x": Evil(target)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(target), protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match="wants to run code; nothing of it was run"):
        open_torch_bin(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Evil(target)))
    assert target.exists(), "the pickle was harmless to begin with, so this test showed nothing"


def test_a_folder_with_a_hostile_pickle_opens_no_further(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(llama.TINY))
    torch.save(Evil(tmp_path / "touched"), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="run code"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80\x02.", b"\x80\x02" + bytes(50), b"\x80"]
)
def test_a_damaged_file_is_refused_with_its_name(content: bytes, tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(PellucidError, match=r"x\.bin"):
        open_torch_bin(tmp_path / "x.bin")


def test_a_truncated_file_is_refused(tmp_path: Path):
    torch.save({"w": torch.zeros(100, 100)}, tmp_path / "x.bin")
    whole = (tmp_path / "x.bin").read_bytes()
    for length in range(0, len(whole), 3001):
        (tmp_path / "x.bin").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_torch_bin(tmp_path / "x.bin")


@pytest.mark.parametrize(
    "state", [{"step": 3}, [torch.zeros(2)], {"model": {"w": torch.zeros(2)}}, {1: torch.zeros(2)}], ids=str
)
def test_what_is_not_named_tensors_is_refused(state: Any, tmp_path: Path):
    torch.save(state, tmp_path / "x.bin")
    with pytest.raises(UnsupportedError, match="other than named tensors"):
        open_torch_bin(tmp_path / "x.bin")


def test_a_tensor_that_is_not_plain_is_refused(tmp_path: Path):
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "x.bin")
    with pytest.raises(UnsupportedError, match=r"w is a torch\.sparse_coo tensor"):
        open_torch_bin(tmp_path / "x.bin")


def test_what_is_written_to_an_array_never_reaches_the_file(tmp_path: Path):
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "x.bin")
    before = (tmp_path / "x.bin").read_bytes()
    array = open_torch_bin(tmp_path / "x.bin")["w"]
    array.data[0] = 9
    assert np.array_equal(array.data[1:], np.arange(1.0, 1000.0, dtype=np.float32))
    assert (tmp_path / "x.bin").read_bytes() == before


def test_opening_other_formats_never_imports_torch(stories: Path):
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pellucid.checkpoint import open_checkpoint\n"
        f"print(len(open_checkpoint({str(stories / 'hf')!r}).weights), "
        f"len(open_checkpoint({str(stories / 'stories260K.bin')!r}).weights))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["47", "47"], result.stderr
