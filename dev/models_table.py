"""The READMEs' tables of models, made from the code: families × formats × executors.

    python dev/models_table.py            # prints both
    python dev/models_table.py --write    # puts them into README.md and README.zh.md

What a family is called and what it is, is the first sentence of its file in families/; whether llama.cpp's files of it
are read, its GGUF; what runs it, the executors' claims of its TINY.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pellucid.families import FAMILIES
from pellucid.families.translation.text_part import WITH_IMAGES
from pellucid.model.claims import TORCH
from pellucid.native.claims import NATIVE

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- models: made by `python dev/models_table.py --write` -->", "<!-- models: end -->"
YES, NO = "✓", "–"

WORDS = {
    "README.md": {
        "heading": "| models, and their `model_type` | folder | GGUF | torch | native |",
        "experts": "mixtures of experts: ",
        "images": "The text part of folders that hold models of images and text, too:",
        "each": "Each `model_type`: what it is, its name in GGUF, and what the native executor does not run yet",
        "columns": "| `model_type` | what | GGUF | native |",
    },
    "README.zh.md": {
        "heading": "| 模型与它的 `model_type` | 文件夹 | GGUF | torch | native |",
        "experts": "混合专家：",
        "images": "图文模型的文件夹，只读其中的文本部分：",
        "each": "逐个 `model_type`：是什么（英文），在 GGUF 里叫什么，native 还缺什么",
        "columns": "| `model_type` | 是什么 | GGUF | native |",
    },
}


@dataclass(frozen=True)
class Row:
    """One ``model_type``; ``refused`` is the first field that the native executor does not run."""

    model_type: str
    name: str
    what: str
    gguf: str | None
    experts: bool
    torch: bool
    refused: str | None

    @property
    def ticks(self) -> tuple[str, ...]:
        """Folder, GGUF, torch, native. A folder's weights are read alike for all: their formats are no family's."""
        return YES, mark(self.gguf is not None), mark(self.torch), mark(self.refused is None)


def mark(holds: bool) -> str:
    return YES if holds else NO


def rows() -> list[Row]:
    """Every family, in the order of ``FAMILIES``."""
    return [_row(model_type) for model_type in FAMILIES]


def _row(model_type: str) -> Row:
    family = FAMILIES[model_type]
    config = family.config(family.TINY)
    paragraph = " ".join((family.__doc__ or "").split("\n\n")[0].split())
    name, _, what = re.split(r"\.(?: |$)", paragraph, maxsplit=1)[0].partition(": ")
    refusal = NATIVE.refusal(config)
    return Row(
        model_type=model_type,
        name=name.replace("``", "`"),
        what=what.replace("``", "`"),
        gguf=family.GGUF.architecture if family.GGUF else None,
        experts=any(layer.experts for layer in config.layers),
        torch=TORCH.refusal(config) is None,
        refused=None if refusal is None else re.sub(r"^layers\.\d+\.", "", refusal.path),
    )


def table(readme: str) -> str:
    """What stands between the two comments of that README: families alike in a row, then each by itself."""
    words, every = WORDS[readme], rows()
    best_first = sorted(every, key=lambda row: (row.experts, [tick != YES for tick in reversed(row.ticks)]))
    lines = [words["heading"], "|---|:-:|:-:|:-:|:-:|"]
    for (experts, ticks), alike in groupby(best_first, lambda row: (row.experts, row.ticks)):
        names = " · ".join(f"{row.name} `{row.model_type}`" for row in alike)
        lines.append(f"| {words['experts'] if experts else ''}{names} | {' | '.join(ticks)} |")
    images = ", ".join(f"`{whole}`" for whole in WITH_IMAGES)
    lines += ["", f"{words['images']} {images}.", ""]
    lines += ["<details>", f"<summary>{_html(words['each'])}</summary>", "", words["columns"], "|---|---|---|---|"]
    for row in every:
        what = f"{row.name}: {row.what}" if row.what else row.name
        native = YES if row.refused is None else f"{NO} `{row.refused}`"
        lines.append(f"| `{row.model_type}` | {what} | {f'`{row.gguf}`' if row.gguf else NO} | {native} |")
    return "\n".join([*lines, "", "</details>"])


def _html(text: str) -> str:
    return re.sub("`(.*?)`", r"<code>\1</code>", text)


def parts(text: str) -> tuple[str, str, str]:
    """A README before its table, the table, and after it."""
    before, rest = text.split(BEGIN)
    between, after = rest.split(END)
    return before, between.strip("\n"), after


def main() -> None:
    for readme in WORDS:
        path = ROOT / readme
        if "--write" in sys.argv[1:]:
            before, _, after = parts(path.read_text(encoding="utf-8"))
            path.write_text(f"{before}{BEGIN}\n\n{table(readme)}\n\n{END}{after}", encoding="utf-8")
        else:
            print(f"{readme}\n\n{table(readme)}\n")


if __name__ == "__main__":
    main()
