"""How the code is cut: its modules, fragments, names that stand twice, circles; and how many files a walk passes.

    python benchmarks/house.py [--walks] [--json FILE] [CHECKOUT]

CHECKOUT is this one, or another (`git worktree add ../before COMMIT`) to compare it with. `--walks` runs nodes of it
and follows a chat vote, a peer that is heard of and a model that is loaded (`walks.py` says what counts).
`tests/house/` holds the figures to their bounds.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from walks import WALKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("swarm", "federation", "hardware")
FRAGMENT_LINES = 30


@dataclass(frozen=True, slots=True)
class Module:
    """One source file. `name` is its dotted name; `path` is relative to the checkout."""

    name: str
    path: str
    lines: int
    tree: ast.Module

    @property
    def stem(self) -> str:
        return self.path.rpartition("/")[2].removesuffix(".py")


def read_modules(root: Path, packages: Iterable[str] = PACKAGES) -> tuple[Module, ...]:
    """Every module of the packages except those that only say what a folder is."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return tuple(_read(root, path) for path in paths if path.name != "__init__.py")


def _read(root: Path, path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    inside = path.relative_to(root)
    return Module(".".join(inside.with_suffix("").parts), inside.as_posix(), len(text.splitlines()), ast.parse(text))


def fragments(modules: Iterable[Module]) -> dict[str, int]:
    """The modules that are shorter than a subject usually is, and their lines."""
    return {module.path: module.lines for module in modules if module.lines < FRAGMENT_LINES}


def shared_classes(modules: Iterable[Module]) -> dict[str, list[str]]:
    """The names of classes that stand in two modules or more, private ones too."""
    return _shared((node.name, module.path) for module in modules for node in _classes(module.tree))


def _classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def shared_types(modules: Iterable[Module]) -> dict[str, list[str]]:
    """The names of classes and of other types (`Claim = tuple[...]`) that stand in two modules or more."""
    classes = ((node.name, module.path) for module in modules for node in _classes(module.tree))
    aliases = ((name, module.path) for module in modules for name in _aliases(module.tree))
    return _shared((*classes, *aliases))


def _aliases(tree: ast.Module) -> Iterator[str]:
    """What a module gives a type's name: `Name = ...`, with a capital first and small ones after it."""
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", target.id):
                yield target.id


def shared_stems(modules: Iterable[Module]) -> dict[str, list[str]]:
    """The names of files that stand in two folders or more."""
    return _shared((module.stem, module.path) for module in modules)


def _shared(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for name, path in found:
        places[name].add(path)
    return {name: sorted(paths) for name, paths in sorted(places.items()) if len(paths) > 1}


def circles(modules: Iterable[Module], whenever: bool = False) -> list[list[str]]:
    """Modules that need each other to be imported; with `whenever`, also by imports that wait in a function."""
    known = {module.name: module for module in modules}
    imports = {name: sorted(_imported(module, known, whenever)) for name, module in known.items()}
    return sorted(sorted(group) for group in _strongly_connected(imports) if len(group) > 1)


def _imported(module: Module, known: Mapping[str, Module], whenever: bool) -> set[str]:
    found: set[str] = set()
    for node in _run_nodes(module.tree, whenever):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.name.split(".")[: -node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found & known.keys() - {module.name}


def _run_nodes(node: ast.AST, whenever: bool) -> Iterator[ast.AST]:
    """Those that run when the module is imported, or `whenever`; never those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        waits = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_for_types and (whenever or not waits):
            yield child
            yield from _run_nodes(child, whenever)


def _strongly_connected(imports: Mapping[str, list[str]]) -> Iterator[set[str]]:
    """Who reaches each other."""
    reached = {name: _reached(name, imports) for name in imports}
    left = set(imports)
    while left:
        name = left.pop()
        group = {name} | {other for other in reached[name] & left if name in reached[other]}
        left -= group
        yield group


def _reached(name: str, imports: Mapping[str, list[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = [name]
    while ahead:
        for other in imports[ahead.pop()]:
            if other not in reached:
                reached.add(other)
                ahead.append(other)
    return reached


def measure(root: Path) -> dict[str, object]:
    """Every figure that needs no node to run."""
    modules = read_modules(root)
    own = [module for module in modules if module.path.startswith("swarm/")]
    return {
        "modules of swarm": len(own),
        "modules": len(modules),
        "lines of swarm": sum(module.lines for module in own),
        "lines": sum(module.lines for module in modules),
        "fragments of swarm": fragments(own),
        "fragments": fragments(modules),
        "shared class names": shared_classes(modules),
        "shared type names": shared_types(modules),
        "shared file names": shared_stems(modules),
        "circles": circles(modules),
        "circles while it runs": circles(modules, whenever=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--walks", action="store_true", help="run nodes, too, and follow the three walks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and names there")
    options = parser.parse_args()
    root = options.checkout.resolve()
    figures = measure(root)
    for name, value in figures.items():
        print(f"{name:22} {value if isinstance(value, int) else _listed(value)}")
    if options.walks:
        figures["walks"] = walks = {name: asdict(run(root)) for name, run in WALKS.items()}
        for name, walk in walks.items():
            print(
                f"walk {name:17} {len(walk['files'])} files ({len(walk['touched'])} with what these call in turn), "
                f"{len(walk['hand_offs'])} hand-offs, {sum(map(len, walk['generators'].values()))} generators an item"
            )
            print(*(f"  {file}" for file in walk["files"]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _listed(value: object) -> str:
    assert isinstance(value, dict | list)
    items = [f"{name}: {places}" for name, places in value.items()] if isinstance(value, dict) else map(str, value)
    return "\n  ".join([str(len(value)), *(item.replace("'", "").replace("[", "").replace("]", "") for item in items)])


if __name__ == "__main__":
    main()
