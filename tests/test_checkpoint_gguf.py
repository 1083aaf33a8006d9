"""GGUF read: against the ``gguf`` package on files it wrote and on real ones; damage is named."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import pytest

from pellucid.base.array import BLOCKS, Array
from pellucid.base.errors import CheckpointError, PellucidError, UnsupportedError, WeightsError
from pellucid.checkpoint.files.gguf import TYPES, UNREAD, GGUFFile
from pellucid.quant import dequantize

KNOWN = {kind: dtype for kind, dtype in TYPES.items() if kind in set(gguf.GGMLQuantizationType)}  # to the package
U8, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 5, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array_of(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str | bytes, sizes: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def write(
    path: Path,
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> Path:
    """A file laid out by hand, valid or not."""
    pairs, tensors = pairs or [], tensors or []
    head = (
        magic
        + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
        + b"".join(pairs)
        + b"".join(tensors)
    )
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_written_by_hand(version: int, tmp_path: Path):
    pairs = [
        pair("general.name", STRING, text("模型")),
        pair("a.count", U8, b"\x07"),
        pair("a.flag", BOOL, b"\x01"),
        pair("a.words", ARRAY, array_of(STRING, 3, text("a") + text("") + text("é"))),
        pair("a.sizes", ARRAY, array_of(I32, 2, struct.pack("<2i", -1, 5))),
        pair("a.flags", ARRAY, array_of(BOOL, 2, b"\x00\x01")),
    ]
    data = np.arange(6, dtype="<f4").tobytes() + bytes(8) + np.array([1, 2], "<f2").tobytes()
    file = GGUFFile(
        write(
            tmp_path / "x.gguf",
            pairs,
            [tensor("w", [3, 2]), tensor("h", [2], kind=1, offset=32)],
            data,
            version=version,
        )
    )
    words, sizes, flags = (file.metadata.pop(f"a.{name}") for name in ("words", "sizes", "flags"))
    assert file.metadata == {"general.name": "模型", "a.count": 7, "a.flag": True}
    assert words == ["a", "", "é"]
    assert (sizes.dtype, sizes.tolist()) == (np.int32, [-1, 5])
    assert flags.tolist() == [False, True]
    assert file.tensors["w"].shape == (2, 3)  # written fastest axis first
    assert file.tensors["w"].data.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (file.tensors["h"].dtype, file.tensors["h"].data.tolist()) == ("float16", [1, 2])


def test_we_read_every_kind_of_value_and_tensor_the_package_writes(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    numbers = {
        "uint8": 200,
        "int8": -5,
        "uint16": 60000,
        "int16": -300,
        "uint32": 2**32 - 1,
        "int32": -7,
        "uint64": 2**64 - 1,
        "int64": -(2**62),
    }
    for kind, value in {**numbers, "float32": 0.5, "float64": 0.1, "bool": False, "string": "文"}.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_array("x.floats", [0.5, 1.5])
    writer.add_array("x.strings", ["a", "b"])
    rng = np.random.default_rng(0)
    stored: dict[str, np.ndarray] = {}
    for kind, dtype in KNOWN.items():
        ggml = gguf.GGMLQuantizationType(kind)
        if dtype in BLOCKS:
            stored[dtype] = rng.integers(0, 256, (4, 512 // BLOCKS[dtype][0] * BLOCKS[dtype][1]), dtype=np.uint8)
        elif dtype == "bfloat16":
            stored[dtype] = rng.integers(0, 256, (4, 1024), dtype=np.uint8)
        else:
            stored[dtype] = rng.integers(-9, 9, (2, 3, 4)).astype(dtype)
        writer.add_tensor(dtype, stored[dtype], raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "x.gguf")
    assert {kind: file.metadata[f"x.{kind}"] for kind in numbers} == numbers
    assert (file.metadata["x.float32"], file.metadata["x.float64"], file.metadata["x.bool"]) == (0.5, 0.1, False)
    assert (file.metadata["x.string"], file.metadata["x.strings"]) == ("文", ["a", "b"])
    assert file.metadata["x.floats"].tolist() == [0.5, 1.5]
    assert file.tensors.keys() == stored.keys()
    for dtype, data in stored.items():
        array = file.tensors[dtype]
        assert array.dtype == dtype
        assert array.shape == ((4, 512) if dtype in (*BLOCKS, "bfloat16") else (2, 3, 4))
        assert array.data.tobytes() == data.tobytes()


def test_a_real_vocabulary_reads_as_the_package_reads_it(shared: Path):
    path = shared / "gguf_vocabs" / "ggml-vocab-llama-spm.gguf"
    ours, theirs = GGUFFile(path).metadata, gguf.GGUFReader(path).fields
    assert ours.keys() == {key for key in theirs if not key.startswith("GGUF.")}
    for key, value in ours.items():
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == theirs[key].contents(), key


def test_smollm2_opens_at_once_and_reads_as_the_package_reads_it(smollm2: Path):
    start = time.perf_counter()
    file = GGUFFile(smollm2)
    seconds = time.perf_counter() - start
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49152
    assert seconds < 1, f"{seconds:.2f} s to open"  # 0.03 s where this was written, where the package takes 3
    theirs = gguf.GGUFReader(smollm2).tensors
    assert file.tensors.keys() == {tensor.name for tensor in theirs}
    for tensor in theirs:
        ours = file.tensors[tensor.name]
        assert ours.shape == tuple(tensor.shape.tolist()[::-1])
        assert np.array_equal(ours.data, tensor.data)
    up = next(tensor for tensor in theirs if tensor.name == "blk.7.ffn_up.weight")
    assert (dequantize(file.tensors[up.name]) == gguf.quants.dequantize(up.data, up.tensor_type)).all()


# ---- damage

FOUR = bytes(16)
DAMAGED: dict[str, dict[str, Any]] = {
    "another magic number": {"magic": b"GGML"},
    "version 1": {"version": 1},
    "big-endian": {"version": 3 << 24},
    "more tensors than bytes": {"counts": (2**40, 0)},
    "more pairs than bytes": {"counts": (0, 2**63)},
    "a key longer than the file": {"pairs": [struct.pack("<Q", 2**62) + b"key"]},
    "a key that is not UTF-8": {"pairs": [pair(b"\xff", U8, b"\x01")]},
    "a key with an escape": {"pairs": [pair("\x1b[2J", U8, b"\x01")]},
    "a key twice": {"pairs": [pair("k", U8, b"\x01")] * 2},
    "a value of an unknown type": {"pairs": [pair("k", 99, bytes(16))]},
    "a string that is not UTF-8": {"pairs": [pair("k", STRING, text(b"\xe4"))]},
    "a string longer than the file": {"pairs": [pair("k", STRING, struct.pack("<Q", 2**63) + bytes(9))]},
    "a flag of 2": {"pairs": [pair("k", BOOL, b"\x02")]},
    "an array longer than the file": {"pairs": [pair("k", ARRAY, array_of(I32, 2**61, bytes(64)))]},
    "an array of an unknown type": {"pairs": [pair("k", ARRAY, array_of(50, 1, bytes(64)))]},
    "an array of arrays": {"pairs": [pair("k", ARRAY, array_of(ARRAY, 1, bytes(64)))]},
    "more strings than bytes": {"pairs": [pair("k", ARRAY, array_of(STRING, 2**60, bytes(64)))]},
    "an array's string longer than the file": {
        "pairs": [pair("k", ARRAY, array_of(STRING, 2, text("a") + struct.pack("<Q", 2**64 - 1)))]
    },
    "an array's string that is not UTF-8": {"pairs": [pair("k", ARRAY, array_of(STRING, 1, text(b"\xc3\x28")))]},
    "strings up to the end": {"pairs": [pair("k", ARRAY, array_of(STRING, 2, text("abcdefgh")))], "alignment": 1},
    "alignment of 0": {"pairs": [pair("general.alignment", 4, bytes(4))]},
    "alignment of 48": {"pairs": [pair("general.alignment", 4, struct.pack("<I", 48))]},
    "alignment as text": {"pairs": [pair("general.alignment", STRING, text("32"))]},
    "alignment beyond the file": {
        "pairs": [pair("general.alignment", 4, struct.pack("<I", 2**31))],
        "tensors": [tensor("w", [4])],
        "data": FOUR,
    },
    "a split count as text": {"pairs": [pair("split.count", STRING, text("2"))]},
    "a split count as a list": {"pairs": [pair("split.count", ARRAY, array_of(I32, 2, bytes(8)))]},
    "a tensor twice": {"tensors": [tensor("w", [4])] * 2, "data": FOUR},
    "a tensor with an escape": {"tensors": [tensor("\x1b]0;", [4])], "data": FOUR},
    "no dimension": {"tensors": [tensor("w", [])], "data": FOUR},
    "five dimensions": {"tensors": [tensor("w", [1] * 5)], "data": FOUR},
    "four billion dimensions": {"tensors": [text("w") + struct.pack("<I", 2**32 - 1)], "data": bytes(64)},
    "an empty tensor": {"tensors": [tensor("w", [0, 4])], "data": FOUR},
    "sizes that overflow": {"tensors": [tensor("w", [2**63, 2**63, 2**63, 2**63])], "data": FOUR},
    "a tensor beyond the end": {"tensors": [tensor("w", [5])], "data": FOUR},
    "an offset beyond the end": {"tensors": [tensor("w", [4], offset=2**63)], "data": FOUR},
    "an offset that is not aligned": {"tensors": [tensor("w", [1], offset=4)], "data": FOUR},
    "tensors that overlap": {"tensors": [tensor("v", [12]), tensor("w", [4], offset=32)], "data": bytes(64)},
    "rows that are no whole blocks": {"tensors": [tensor("w", [33, 2], kind=8)], "data": bytes(640)},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_with_its_name(damage: str, tmp_path: Path):
    with pytest.raises(PellucidError, match=r"x\.gguf: "):
        GGUFFile(write(tmp_path / "x.gguf", **DAMAGED[damage]))


def test_a_file_shorter_than_its_header_is_refused(tmp_path: Path):
    whole = write(tmp_path / "x.gguf", [pair("k", U8, b"\x01")], [tensor("w", [4])], FOUR).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x.gguf").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            GGUFFile(tmp_path / "x.gguf")


def test_a_tensor_type_we_do_not_read_is_named(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="tensor w is of type Q8_K"):
        GGUFFile(write(tmp_path / "x.gguf", tensors=[tensor("w", [256], kind=15)], data=FOUR))
    with pytest.raises(UnsupportedError, match="tensor w is of type 999"):
        GGUFFile(write(tmp_path / "x.gguf", tensors=[tensor("w", [256], kind=999)], data=FOUR))


def test_the_types_we_name_are_the_packages():
    assert {gguf.GGMLQuantizationType(kind).name.lower() for kind in KNOWN} == {
        {"float32": "f32", "float16": "f16", "float64": "f64", "bfloat16": "bf16"}.get(dtype, dtype.replace("int", "i"))
        for dtype in KNOWN.values()
    }
    assert {kind.name for kind in gguf.GGMLQuantizationType if kind not in TYPES} <= set(UNREAD.values())
    for kind, dtype in KNOWN.items():
        if dtype in BLOCKS:
            assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == BLOCKS[dtype]


# ---- split files


def split(folder: Path, count: int = 3) -> list[Path]:
    paths = []
    for number in range(count):
        pairs = [
            pair("split.no", 2, struct.pack("<H", number)),
            pair("split.count", 2, struct.pack("<H", count)),
            pair("split.tensors.count", I32, struct.pack("<i", count)),
            *([pair("general.name", STRING, text("whole"))] if number == 0 else []),
        ]
        data = np.full(4, number, "<f4").tobytes()
        paths.append(
            write(folder / f"m-{number + 1:05d}-of-{count:05d}.gguf", pairs, [tensor(f"w{number}", [4])], data)
        )
    return paths


def test_any_part_of_a_split_model_opens_all_of_it(tmp_path: Path):
    for path in (paths := split(tmp_path)):
        file = GGUFFile(path)
        assert [array.data[0] for array in file.tensors.values()] == [0, 1, 2]
        assert file.metadata["general.name"] == "whole"
        assert file.paths == paths


def test_a_split_model_that_is_not_whole_is_refused(tmp_path: Path):
    paths = split(tmp_path)
    paths[1].rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"1 of 3 parts are missing: m-00002-of-00003\.gguf"):
        GGUFFile(paths[0])
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(CheckpointError, match="of another model, or misnamed"):
        GGUFFile(paths[0])
    (tmp_path / "single.gguf").write_bytes(paths[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"expected NAME-00001-of-00003\.gguf"):
        GGUFFile(tmp_path / "single.gguf")


def test_parts_that_hold_the_same_tensor_are_refused(tmp_path: Path):
    first, second = split(tmp_path, count=2)
    second.write_bytes(second.read_bytes().replace(b"w1", b"w0"))
    with pytest.raises(WeightsError, match="w0 is in two files"):
        GGUFFile(first)


def test_tensors_are_views_of_the_map(tmp_path: Path):
    file = GGUFFile(write(tmp_path / "x.gguf", tensors=[tensor("w", [4])], data=FOUR))
    file.tensors["w"].data[0] = 3
    again: Array = file.tensors["w"]
    assert again.data[0] == 3
    assert not any((tmp_path / "x.gguf").read_bytes()[-16:])
