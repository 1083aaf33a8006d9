"""The texts of the ``tiny`` model, cleaned: python recipes/tiny_texts.py ../shared/data FOLDER

Shakespeare, The Wizard of Oz, 10,456 Tang poems, 红楼梦: all in the public domain. Writes one .jsonl a source, one
document a line.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ADVERTISEMENT = re.compile(r"手机电子书|dxsxs|更新时间|章节内容开始|书籍介绍|中国古代四大名著")
CHAPTER = re.compile(r"^\s*(?:[上中下]卷)?\s*第[一二三四五六七八九十百零〇○]+回", re.MULTILINE)
SPEECHES = 60  # of Shakespeare, to a document


def shakespeare(data: Path) -> Iterable[str]:
    speeches = (data / "text_shakespeare/input.txt").read_text("utf-8").strip().split("\n\n")
    for first in range(0, len(speeches), SPEECHES):
        yield "\n\n".join(speeches[first : first + SPEECHES]) + "\n"


def oz(data: Path) -> Iterable[str]:
    yield (data / "text_misc/wizard_of_oz.txt").read_text("utf-8").strip() + "\n"


def tang(data: Path) -> Iterable[str]:
    """Title, author, then a line for each sentence."""
    for poem in json.loads((data / "text_chinese/tang_poetry_corpus_simplified.json").read_text("utf-8")):
        lines = re.sub(r"([。！？])", r"\1\n", poem["content"]).strip()
        yield f"《{poem['title']}》{poem['author']}\n{lines}\n"


def dream(data: Path) -> Iterable[str]:
    """红楼梦, a chapter a document, without what an e-book site put between."""
    lines = (data / "text_chinese/hongloumeng.txt").read_text("utf-8").splitlines()
    text = "\n".join(
        line.strip().replace("．", "。") for line in lines if line.strip() and not ADVERTISEMENT.search(line)
    )
    starts = [match.start() for match in CHAPTER.finditer(text)]
    for first, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        yield text[first:stop].strip() + "\n"


def main(data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in {
        "shakespeare": shakespeare(data),
        "oz": oz(data),
        "tang": tang(data),
        "dream": dream(data),
    }.items():
        documents = list(texts)
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
        print(f"{name}: {len(documents):,} documents, {sum(map(len, documents)):,} characters")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
