"""Which tensor of a file is which of a family's: names as they should be, behind a prefix, or without their own.

torch's data parallel, FSDP and ``torch.compile`` put their wrapper's name before or into every tensor's
(``module.``, ``_orig_mod.``); a value head's model has ``pretrained_model.``; a base model that was saved alone lacks
``model.`` or ``transformer.``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pellucid.base.errors import WeightsError
from pellucid.families.translation.rules import Rule

WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
DEPTH = 3  # parts of a name that a prefix may have
CANDIDATES = 16  # prefixes that are tried, those of the most tensors first


@dataclass(frozen=True)
class Prefix:
    """``without`` is taken off the names in a file, ``before`` is put before them."""

    without: str = ""
    before: str = ""

    def apply(self, name: str, known: set[str]) -> str | None:
        """The family's name; None where this does not make it one."""
        if name in known:
            return name
        if not name.startswith(self.without):
            return None
        rest = name[len(self.without) :]
        return rest if rest in known else self.before + rest if self.before + rest in known else None

    def __str__(self) -> str:
        said = [f"the prefix {self.without!r} is taken off"] if self.without else []
        return " and ".join([*said, *([f"{self.before!r} is put before them"] if self.before else [])])


@dataclass(frozen=True)
class Naming:
    """``names``: the family's name → the name in the file; ``others``: names in the file that are none of the family's;
    ``how``: what was done to the names, for a notice.
    """

    names: Mapping[str, str]
    others: tuple[str, ...]
    how: str


def naming(
    known: set[str], rules: Iterable[Rule], stored: Iterable[str], ignored: Iterable[str], where: object
) -> Naming:
    """Each tensor's name, found; ``ignored`` are patterns of buffers that are no weights.

    Raises: WeightsError where two tensors of the file would have one name.
    """
    stored = list(stored)
    bare = {name: _unwrapped(name) for name in stored}
    prefix = _prefix(known, list(bare.values()), _roots(rules), where)
    names: dict[str, str] = {}
    others: list[str] = []
    for name in sorted(stored, key=lambda name: name not in known):  # one that needs no change has its name
        full = prefix.apply(bare[name], known)
        if full is None:
            if not any(fnmatchcase(bare[name], pattern) for pattern in ignored):
                others.append(name)
        elif full not in names:
            names[full] = name
        elif names[full] in known:
            others.append(name)
        else:
            raise WeightsError(
                f"{names[full]} and {name} are both {full}",
                where=where,
                remedy="the file holds two models; save one of them alone",
            )
    wrappers = sorted({part for name in stored for part in name.split(".") if part in WRAPPERS})
    how = [f"{wrapper}. is taken out" for wrapper in wrappers] + ([str(prefix)] if str(prefix) else [])
    left = set(others)
    return Naming(names, tuple(name for name in stored if name in left), " and ".join(how))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _roots(rules: Iterable[Rule]) -> list[str]:
    """What stands before ``layers`` in a family's names: ``model.``, ``transformer.encoder.``."""
    paths: set[str] = set()
    for rule in rules:
        parts = rule.theirs.partition(".{i}")[0].split(".")[:-1] if rule.by_layer else []
        paths |= {".".join(parts[:length]) + "." for length in range(1, len(parts) + 1)}
    return sorted(paths, key=len)


def _prefix(known: set[str], names: list[str], roots: list[str], where: object) -> Prefix:
    """The one that makes the most names the family's; none where none makes more.

    Raises: WeightsError where another makes a model of other tensors, too.
    """
    plain = sum(name in known for name in names)
    if plain == len(names):
        return Prefix()
    count: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        count.update(".".join(parts[:length]) + "." for length in range(1, min(DEPTH, len(parts) - 1) + 1))
    fitting: dict[Prefix, int] = {}
    for without in ("", *(prefix for prefix, _ in count.most_common(CANDIDATES))):
        for before in ("", *roots):
            prefix = Prefix(without, before)
            fitting[prefix] = len({full for name in names if (full := prefix.apply(name, known)) is not None})
    best = max(fitting, key=lambda prefix: fitting[prefix])  # of several, the first: the least change
    if fitting[best] == plain:
        return Prefix()
    rivals = (a for a in fitting if not (a.without.startswith(best.without) or best.without.startswith(a.without)))
    if rival := next((rival for rival in rivals if 2 * fitting[rival] > plain + fitting[best]), None):
        raise WeightsError(
            "the file holds two models",
            where=where,
            received=f"tensors under {best.without} and {rival.without}",
            remedy="save one of them alone",
        )
    return best
