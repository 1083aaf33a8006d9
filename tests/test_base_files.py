"""Files are written whole or not at all; what is no file is written to, and stays what it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from pellucid.base.files import atomic_write


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines([b"half", "no bytes"])  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to_and_no_file_takes_its_place(tmp_path: Path) -> None:
    path, received = tmp_path / "pipe", list[bytes]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()), daemon=True)
    reader.start()
    with atomic_write(path, "w") as file:
        file.write("é")
    reader.join(10)
    assert received == ["é".encode()]
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [path]
