"""Whether a model has learned the form of Tang poems: python recipes/poem_form.py MODEL [POEMS] [--texts tang.jsonl]

Samples poems (each begins with 《, and the model writes its title) and counts those whose clauses all have five
characters, or all seven: the regulated forms. With --texts the same count over real poems stands beside it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

from pellucid import AutoModelForCausalLM, AutoTokenizer

CLAUSE_ENDS = re.compile(r"[，。！？；]")


def clauses(poem: str) -> list[str]:
    """The clauses of a poem's finished lines, without title, author and punctuation."""
    body = poem.partition("\n")[2]
    whole = body[: max((match.end() for match in CLAUSE_ENDS.finditer(body)), default=0)]
    return [clause for clause in CLAUSE_ENDS.split(whole.replace("\n", "")) if clause]


def is_regulated(poem: str) -> bool:
    """Four clauses or more, all of five characters or all of seven."""
    lengths = [len(clause) for clause in clauses(poem)]
    return len(lengths) >= 4 and set(lengths) in ({5}, {7})


def share(poems: Iterable[str]) -> str:
    verdicts = [is_regulated(poem) for poem in poems]
    return f"{sum(verdicts)} of {len(verdicts)} ({sum(verdicts) / len(verdicts):.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("poems", type=int, nargs="?", default=100)
    parser.add_argument("--texts", type=Path)
    its = parser.parse_args()
    tokenizer, model = AutoTokenizer.from_pretrained(its.model), AutoModelForCausalLM.from_pretrained(its.model)
    start = tokenizer("《", return_tensors="pt")["input_ids"]
    made = model.generate(
        start, max_new_tokens=100, do_sample=True, temperature=0.8, top_k=50, seed=0, num_return_sequences=its.poems
    )
    poems = [tokenizer.decode(ids, skip_special_tokens=True) for ids in made]
    for poem in poems[:3]:
        print(poem.strip(), end="\n\n")
    print("regulated, of the model's:", share(poems))
    if its.texts:
        print(
            "regulated, of real poems: ", share(json.loads(line)["text"] for line in its.texts.open(encoding="utf-8"))
        )


if __name__ == "__main__":
    main()
