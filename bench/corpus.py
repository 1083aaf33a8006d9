"""How many MB of text a second become token ids: `tokenizers` alone, Pellucid's encode_batch, and whole token shards.

    python bench/corpus.py TOKENIZER… [--texts FOLDER] [--mb 64] [--rounds 3] [--record]

TOKENIZER is a folder, a tokenizer.json or a GGUF file. The texts (English and Chinese books, web text) are cut into
documents of some 4,000 characters and repeated, each time with another number before them, up to --mb. Of each text a
sixteenth is encoded by `tokenizers` too, and compared, outside the timing. ``proof`` is what the first use costs:
reading the tokenizer into the fast library, and the probe. ``new text`` is the texts once, unrepeated, by an encoder
that has seen nothing: the library keeps words that it met, so repeated text is quicker than a corpus that brings new
words all the time. ``shards`` is what `pellucid pretrain` does before it learns: read, cut, encode, write. Beside each
stands the same in MB per second of the processor's time, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEXTS = (
    "text_chinese/hongloumeng.txt",
    "text_shakespeare/input.txt",
    "text_misc/wizard_of_oz.txt",
    "text_misc/wiki_demo.txt",
)


def texts_of(folder: Path, num_bytes: int) -> list[str]:
    whole = [(folder / path).read_text(encoding="utf-8") for path in TEXTS]
    web = (folder / "text_misc" / "c4_demo.jsonl").read_text(encoding="utf-8")
    whole += [json.loads(line)["text"] for line in web.split("\n") if line]
    cut = [text[start : start + 4000] for text in whole for start in range(0, len(text), 4000)]
    made, size, turn = [], 0, 0
    while size < num_bytes:
        made += [f"{turn} {text}" for text in cut]
        size = sum(len(text.encode()) for text in made)
        turn += 1
    return made


class Clock:
    """Seconds on the wall and of the processor."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def measure(name: str, texts: list[str], num_mb: float, rounds: int) -> dict[str, Any]:
    import numpy as np

    from pellucid.auto import AutoTokenizer
    from pellucid.text.readers.fast import fast_encoder
    from pellucid.train.data.shards import make_shards

    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    row: dict[str, Any] = {"tokenizer": name, "MB": round(num_mb, 1)}
    few = texts[::16]
    few_mb = sum(len(text.encode()) for text in few) / 1e6
    backend = getattr(tokenizer, "_backend", None)  # SentencePiece has none: one by one is what a batch is beside
    began = time.perf_counter()
    if backend is None:
        plain = [tokenizer.encode(text, add_special_tokens=False) for text in few]
    else:
        plain = [encoding.ids for encoding in backend.encode_batch_fast(few, add_special_tokens=False)]
    row["tokenizers MB/s"] = few_mb / (time.perf_counter() - began)
    began = time.perf_counter()
    encoder = None if backend is None else fast_encoder(backend)
    row["fast"] = encoder is not None
    row["proof s"] = time.perf_counter() - began
    new = texts[: max(len(texts) * 6 // max(int(num_mb), 1), 1)]  # each text once
    new_mb = sum(len(text.encode()) for text in new) / 1e6
    if encoder is not None:
        with Clock() as clock:
            encoder.encode(new)
        row["new text MB/s"], row["new text MB/cpu-s"] = new_mb / clock.wall, new_mb / clock.cpu
    batch = tokenizer.encode_batch(texts, add_special_tokens=False)
    if any(not np.array_equal(one, other) for one, other in zip(batch[::16], plain, strict=True)):
        raise SystemExit(f"{name}: the ids differ")
    clocks = [Clock() for _ in range(rounds)]
    for clock in clocks:
        with clock:
            tokenizer.encode_batch(texts, add_special_tokens=False)
    row["encode_batch MB/s"] = [num_mb / clock.wall for clock in clocks]
    row["encode_batch MB/cpu-s"] = [num_mb / clock.cpu for clock in clocks]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "corpus.txt"
        source.write_text("\n".join(texts), encoding="utf-8")
        size, clocks = source.stat().st_size / 1e6, [Clock() for _ in range(rounds)]
        for turn, clock in enumerate(clocks):
            with clock:
                make_shards(Path(folder) / str(turn), [source], tokenizer)
        row["shards MB/s"] = [size / clock.wall for clock in clocks]
        row["shards MB/cpu-s"] = [size / clock.cpu for clock in clocks]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="+")
    parser.add_argument("--texts", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--mb", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write records/corpus-DATE.json")
    options = parser.parse_args()
    texts = texts_of(options.texts, int(options.mb * 1e6))
    num_mb = sum(len(text.encode()) for text in texts) / 1e6
    rows = []
    for name in options.tokenizers:
        row = measure(name, texts, num_mb, options.rounds)
        rows.append(row)
        said = [f"tokenizers {row['tokenizers MB/s']:.1f} MB/s"]
        if row["fast"]:
            said.append(f"new text {row['new text MB/s']:.0f} ({row['new text MB/cpu-s']:.0f} a cpu-second)")
        for key in ("encode_batch", "shards"):
            wall, cpu = (statistics.median(row[f"{key} {unit}"]) for unit in ("MB/s", "MB/cpu-s"))
            said.append(f"{key} {wall:.0f} ({cpu:.0f})")
        said.append(f"proof {row['proof s']:.1f} s, {'identical' if row['fast'] else 'not proven identical'}")
        print(f"{name}: {', '.join(said)}", flush=True)
    if options.record:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
        path = ROOT / "bench" / "records" / f"corpus-{date.today()}.json"
        path.write_text(json.dumps({"commit": head, **machine, "rows": rows}, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
