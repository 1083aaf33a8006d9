"""safetensors read and written: the ``safetensors`` library reads ours, we read theirs, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import CheckpointError, PellucidError, UnsupportedError
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.checkpoint.files.shards import open_sharded


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file with any header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list[Any], start: Any, stop: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape)
    return Array(dtype, shape, np.asarray(values).astype(STORAGE[dtype]))


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """What numpy has no name for, as whole numbers of the same size."""
    plain = tensor.dtype not in (torch.bfloat16, *(getattr(torch, name) for name in STORAGE if "float8" in name))
    return tensor if plain else tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.uint8)


def same(one: Array, other: Array) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.data.tobytes() == other.data.tobytes()


def test_a_file_written_by_hand(tmp_path: Path):
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2], 0, 8),
        "b": entry("BF16", [1, 2], 8, 12),
        "c": entry("F32", [], 12, 16),
    }
    data = np.array([1.5, -2], "<f4").tobytes() + b"\x80\x3f\x00\x40" + np.float32(7).tobytes()
    file = SafetensorsFile(write(tmp_path / "x.safetensors", header, data))
    assert list(file) == ["a", "b", "c"]
    assert file.metadata == {"format": "pt"}
    assert file["a"].data.tolist() == [1.5, -2]
    assert (file["b"].dtype, file["b"].shape, file["b"].data.tolist()) == ("bfloat16", (1, 2), [[0x3F80, 0x4000]])
    assert (file["c"].shape, float(file["c"].data)) == ((), 7.0)
    assert "d" not in file


def test_arrays_are_views_of_the_map_that_never_reach_the_file(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", json.dumps({"a": entry("F32", [2], 0, 8)}).encode().ljust(64), bytes(8))
    before, file = path.read_bytes(), SafetensorsFile(path)
    file["a"].data[0] = 5
    assert file["a"].data[0] == 5
    assert path.read_bytes() == before


def test_we_read_what_the_library_writes(tmp_path: Path):
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in STORAGE} | {
        "empty": torch.zeros(0, 4)
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "note": "文"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.keys() == tensors.keys()
    assert file.metadata == {"format": "pt", "note": "文"}
    for name, tensor in tensors.items():
        bits = bits_of(tensor)
        assert file[name].shape == tuple(tensor.shape)
        assert file[name].data.tobytes() == bits.numpy().tobytes()


def test_the_library_reads_what_we_write(tmp_path: Path):
    arrays = {dtype: numbers((3, 2), dtype) for dtype in STORAGE}
    arrays |= {
        "层.0": numbers((2,)),
        "scalar": numbers(()),
        "empty": numbers((0, 3)),
        "transposed": Array("float32", (3, 2), numbers((2, 3)).data.T),
    }
    assert save_safetensors(tmp_path / "x.safetensors", arrays) == [tmp_path / "x.safetensors"]
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == arrays.keys()
        for name, array in arrays.items():
            tensor = file.get_tensor(name)
            bits = bits_of(tensor)
            assert tuple(tensor.shape) == array.shape
            assert bits.numpy().tobytes() == array.data.tobytes()
    back = SafetensorsFile(tmp_path / "x.safetensors")
    assert all(same(back[name], array) for name, array in arrays.items())


def test_data_that_is_not_aligned_to_its_elements_is_read_all_the_same(tmp_path: Path):
    header = json.dumps({"a": entry("F64", [2], 0, 16)}).encode().ljust(61)
    file = SafetensorsFile(write(tmp_path / "x.safetensors", header, np.array([1.5, 2.5]).tobytes()))
    assert file["a"].data.flags.aligned
    assert file["a"].data.tolist() == [1.5, 2.5]


def test_a_real_file_reads_as_the_library_reads_it(stories: Path):
    ours = SafetensorsFile(stories / "hf" / "model.safetensors")
    with safe_open(stories / "hf" / "model.safetensors", framework="np") as theirs:
        assert ours.keys() == set(theirs.keys())
        assert all((ours[name].data == theirs.get_tensor(name)).all() for name in ours)


DAMAGED = {
    "not JSON": b"{]",
    "not UTF-8": b'{"\xff": 1}',
    "no object": [1],
    "nested too deeply": b'{"a":' + b"[" * 100_000,
    "a key twice": b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, '
    b'"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "half a surrogate in a name": b'{"\\ud800": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "a terminal's escape in a name": b'{"\\u001b[2J": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": entry("F32", [1], 0, 4)},
    "no description": {"a": [1]},
    "no dtype": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "three offsets": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}},
    "a negative size": {"a": entry("F32", [-1], 0, 4)},
    "a size of true": {"a": entry("F32", [True], 0, 4)},
    "a fractional size": {"a": entry("F32", [1.0], 0, 4)},
    "a huge size": {"a": entry("F32", [10**4000], 0, 4)},
    "a huge size hidden by a zero": {"a": entry("F32", [0, 2**62, 2**62], 0, 0), "b": entry("F32", [1], 0, 4)},
    "too many sizes": {"a": entry("F32", [1] * 65, 0, 4)},
    "a negative offset": {"a": entry("F32", [1], -4, 0)},
    "an offset of true": {"a": entry("U8", [1], False, True)},
    "offsets backwards": {"a": entry("F32", [1], 4, 0)},
    "size and offsets differ": {"a": entry("F32", [2], 0, 4)},
    "beyond the end": {"a": entry("F32", [2], 0, 8)},
    "bytes left over": {"a": entry("U8", [2], 0, 2)},
    "a hole": {"a": entry("U8", [1], 0, 1), "b": entry("U8", [2], 2, 4)},
    "an overlap": {"a": entry("U8", [3], 0, 3), "b": entry("U8", [2], 2, 4)},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_header_is_refused_with_the_files_name(damage: str, tmp_path: Path):
    path = write(tmp_path / "x.safetensors", DAMAGED[damage], bytes(4))
    with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
        SafetensorsFile(path)


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 100_000_001])
def test_a_header_length_beyond_the_file_is_refused(length: int, tmp_path: Path):
    with pytest.raises(CheckpointError, match="truncated"):
        SafetensorsFile(write(tmp_path / "x.safetensors", {"a": entry("F32", [1], 0, 4)}, bytes(4), length=length))


def test_a_file_shorter_than_a_length_is_refused(tmp_path: Path):
    for content in (b"", b"1234567"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError):
            SafetensorsFile(tmp_path / "x.safetensors")


def test_a_dtype_we_cannot_hold_is_named(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="w is of dtype 'F4'"):
        SafetensorsFile(write(tmp_path / "x.safetensors", {"w": entry("F4", [4], 0, 4)}, bytes(4)))


def test_what_safetensors_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path):
    block = Array("q8_0", (1, 32), np.zeros((1, 34), np.uint8))
    with pytest.raises(CheckpointError, match="w is q8_0"):
        save_safetensors(tmp_path / "x.safetensors", {"a": numbers((2,)), "w": block})
    assert list(tmp_path.iterdir()) == []


# ---- shards


def test_a_save_beyond_the_limit_is_cut_into_shards_that_the_library_and_we_read(tmp_path: Path):
    arrays = {f"w{i}": numbers((4, 4)) for i in range(5)}  # 64 bytes each
    paths = save_safetensors(tmp_path / "model.safetensors", arrays, max_shard_bytes=128)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
    assert {path.name for path in paths} == {*names, "model.safetensors.index.json"}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {"metadata": {"total_size": 320}, "weight_map": {f"w{i}": names[i // 2] for i in range(5)}}
    with safe_open(tmp_path / names[0], framework="np") as file:
        assert set(file.keys()) == {"w0", "w1"}
    back, files = open_sharded(tmp_path / "model.safetensors.index.json", SafetensorsFile)
    assert all(same(back[name], array) for name, array in arrays.items())
    assert [path.name for path in files] == names


def test_one_tensor_larger_than_the_limit_has_a_shard_of_its_own(tmp_path: Path):
    paths = save_safetensors(
        tmp_path / "m.safetensors", {"a": numbers((2,)), "b": numbers((99,)), "c": numbers((2,))}, max_shard_bytes=100
    )
    assert len(paths) == 4


def test_each_array_is_made_once_and_let_go_before_the_next(tmp_path: Path):
    import weakref

    alive: list[weakref.ref[Array]] = []

    def make() -> Array:
        assert not [ref for ref in alive[:-1] if ref() is not None], "an array before the last one is still held"
        array = numbers((64, 64))
        alive.append(weakref.ref(array))
        return array

    save_safetensors(tmp_path / "m.safetensors", Lazy(dict.fromkeys("abcd", make)), max_shard_bytes=40_000)
    assert len(alive) == 4


def sharded(folder: Path) -> Path:
    """Two shards, a0 and a1, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / "model.safetensors", {"a0": numbers((4,)), "a1": numbers((4,))}, max_shard_bytes=16)
    return folder / "model.safetensors.index.json"


def rewrite(index: Path, **weight_map: Any) -> Path:
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\b", "c:x", "x\0y"]
)
def test_an_index_that_points_outside_its_folder_is_refused(name: str, tmp_path: Path):
    index = sharded(tmp_path / "model")
    save_safetensors(tmp_path / "secret.safetensors", {"a1": numbers((4,))})
    with pytest.raises(CheckpointError, match="outside its folder"):
        open_sharded(rewrite(index, a0=FIRST, a1=name), SafetensorsFile)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    index = sharded(tmp_path / "model")
    (index.parent / SECOND).rename(tmp_path / "elsewhere")
    (index.parent / SECOND).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        open_sharded(index, SafetensorsFile)


@pytest.mark.parametrize("blobs", ["models--org--name/blobs", "blobs/ab"])
def test_links_to_the_blobs_of_hugging_faces_cache_are_followed(blobs: str, tmp_path: Path):
    index = sharded(tmp_path / "models--org--name" / "snapshots" / "0123abc")
    (tmp_path / blobs).mkdir(parents=True)
    for name in (FIRST, SECOND):
        (index.parent / name).rename(tmp_path / blobs / name)
        (index.parent / name).symlink_to(Path("../../../" + blobs) / name)
    assert set(open_sharded(index, SafetensorsFile)[0]) == {"a0", "a1"}


def test_a_link_to_another_repositorys_files_is_refused(tmp_path: Path):
    index = sharded(tmp_path / "models--org--name" / "snapshots" / "0123abc")
    (tmp_path / "models--org--private" / "blobs").mkdir(parents=True)
    target = tmp_path / "models--org--private" / "blobs" / "x"
    (index.parent / SECOND).rename(target)
    (index.parent / SECOND).symlink_to(target)
    with pytest.raises(CheckpointError, match="link out of its folder"):
        open_sharded(index, SafetensorsFile)


def test_an_index_and_files_that_disagree_are_named_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    index = sharded(tmp_path)
    assert set(open_sharded(rewrite(index, a0=FIRST, a1=SECOND, a2=SECOND), SafetensorsFile)[0]) == {"a0", "a1"}
    assert "lack a2" in capsys.readouterr().err
    save_safetensors(tmp_path / "two.safetensors", {"b0": numbers((4,)), "b1": numbers((4,))})
    assert set(open_sharded(rewrite(index, b0="two.safetensors"), SafetensorsFile)[0]) == {"b0", "b1"}
    with pytest.raises(CheckpointError, match=r"gone\.safetensors is missing"):
        open_sharded(rewrite(index, a0="gone.safetensors"), SafetensorsFile)
    for damaged in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": ["a"]}', "{"):
        index.write_text(damaged)
        with pytest.raises(PellucidError, match=r"index\.json"):
            open_sharded(index, SafetensorsFile)


# ---- saving over an earlier save


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_save_replaces_what_an_earlier_one_left_and_nothing_else(tmp_path: Path):
    arrays, path = {f"w{i}": numbers((4, 4)) for i in range(4)}, tmp_path / "model.safetensors"
    (tmp_path / "other-00001-of-00002.safetensors").write_bytes(b"not ours")
    save_safetensors(path, arrays, max_shard_bytes=64)
    save_safetensors(path, arrays, max_shard_bytes=128)
    two = {FIRST, SECOND, "model.safetensors.index.json", "other-00001-of-00002.safetensors"}
    assert snapshot(tmp_path).keys() == two
    save_safetensors(path, arrays)
    assert snapshot(tmp_path).keys() == {"model.safetensors", "other-00001-of-00002.safetensors"}
    save_safetensors(path, arrays, max_shard_bytes=128)
    assert snapshot(tmp_path).keys() == two


def test_a_file_can_be_saved_over_itself_while_it_is_mapped(tmp_path: Path):
    arrays = {f"w{i}": numbers((4, 4)) for i in range(4)}
    path = tmp_path / "model.safetensors"
    save_safetensors(path, arrays)
    save_safetensors(path, SafetensorsFile(path))
    assert all(same(SafetensorsFile(path)[name], array) for name, array in arrays.items())


def test_a_save_that_fails_midway_leaves_the_earlier_one(tmp_path: Path):
    save_safetensors(tmp_path / "model.safetensors", {"a0": numbers((4,)), "a1": numbers((4,))}, max_shard_bytes=16)
    before = snapshot(tmp_path)

    def fail() -> Array:
        raise KeyboardInterrupt

    def arrays() -> Iterator[tuple[str, Any]]:
        yield "a0", lambda: numbers((5,))
        yield "a1", fail

    with pytest.raises(KeyboardInterrupt):
        save_safetensors(tmp_path / "model.safetensors", Lazy(dict(arrays())), max_shard_bytes=16)
    assert snapshot(tmp_path) == before
