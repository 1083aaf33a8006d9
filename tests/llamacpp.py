"""llama.cpp itself, in a process of its own (``make bench-peers`` builds it): the ids that a GGUF vocabulary gives."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

PYTHON = Path(os.environ.get("PELLUCID_TEST_LLAMACPP", ROOT / ".venv-llamacpp" / "bin" / "python"))
_ENCODE = """
import json, sys, llama_cpp
asked = json.load(sys.stdin)
log = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(log, None)
answers = []
for path in asked["paths"]:
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    answers.append([model.tokenize(text.encode(), add_bos=asked["ends"], special=asked["special"])
                    for text in asked["texts"]])
json.dump(answers, sys.stdout)
"""


def ids_of(
    paths: Sequence[Path], texts: Sequence[str], *, ends: bool = False, special: bool = False
) -> list[list[list[int]]]:
    """The ids of each text in each file's vocabulary; skips where llama.cpp is not built."""
    if not PYTHON.is_file():
        pytest.skip(f"no llama.cpp at {PYTHON}; `make bench-peers` builds it")
    asked = {"paths": [str(path) for path in paths], "texts": list(texts), "ends": ends, "special": special}
    done = subprocess.run([PYTHON, "-c", _ENCODE], input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"llama.cpp ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def write_vocabulary(path: Path, metadata: Mapping[str, Any]) -> Path:
    """A GGUF file without tensors whose tokenizer is what ``metadata`` says."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if not key.startswith("tokenizer."):
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, (int,)) or (hasattr(value, "__index__") and not hasattr(value, "__len__")):
            writer.add_uint32(key, int(value))
        else:
            values = value.tolist() if hasattr(value, "tolist") else list(value)
            writer.add_array(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
