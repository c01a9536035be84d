"""The command line as where only the base is installed: what the extra `agent` alone brings cannot be imported.

    python tests/doubles/base_install.py NOTED ARGUMENT ...      (arguments of `swarm`)

Each attempt to import something of it fails as it does there, and is a line of the file NOTED.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from types import ModuleType

PROJECT = "local-swarm"


def installed_with(*extras: str) -> set[str]:
    """The distributions that the project and these extras bring here, with all that they need."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[tuple[str, frozenset[str]]] = set()
    left: list[tuple[str, frozenset[str]]] = [(PROJECT, frozenset(extras))]
    while left:
        if (wanted := left.pop()) in found:
            continue
        found.add(wanted)
        name, chosen = wanted
        try:
            requires = distribution(name).requires or ()
        except PackageNotFoundError:  # of another system
            continue
        left += [
            (canonicalize_name(each.name), frozenset(each.extras))
            for each in map(Requirement, requires)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *chosen})
        ]
    return {name for name, _ in found}


def only_with(extra: str) -> frozenset[str]:
    """The packages, by the names that are imported, that nothing but `extra` brings."""
    from packaging.utils import canonicalize_name

    extra_ones = installed_with(extra) - installed_with()
    return frozenset(
        module
        for module, distributions in packages_distributions().items()
        if {canonicalize_name(name) for name in distributions} <= extra_ones
    )


class Absent(importlib.abc.MetaPathFinder):
    """Finds none of `names`, and notes who was looked for."""

    def __init__(self, names: Collection[str], noted: Path) -> None:
        self._names = names
        self._noted = noted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self._names:
            with self._noted.open("a") as lines:
                lines.write(fullname + "\n")
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def main(noted: str, arguments: Iterable[str]) -> int:
    absent = only_with("agent")
    for name in [name for name in sys.modules if name.partition(".")[0] in absent]:
        del sys.modules[name]
    sys.meta_path.insert(0, Absent(absent, Path(noted)))
    from swarm.cli import main as swarm

    return swarm(list(arguments))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main(sys.argv[1], sys.argv[2:]))
