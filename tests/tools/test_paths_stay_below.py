"""No path leaves its root: ten thousand of them at random, by both ways of walking, while folders become links."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.tools.beneath import Opener, open_by_kernel, open_by_steps
from swarm.tools.rooted_files import RootedFiles, inside
from swarm.tools.tool import ToolFailure

SECRET = b"the secret outside"
BOTH = [pytest.param(open_by_kernel, id="kernel"), pytest.param(open_by_steps, id="steps")]
NAMES = ("a", "b", "file", "deep", "..", "..", "..", ".", "", "up", "out", "absolute", "round", "in", "root", "secret")
MORE_NAMES = ("swapped", "swapped", "swap-link", "rootbeside", "~", "x" * 256, "\udc80", "é", "\n", "a\0b")
STARTS = ("", "", "", "/", "//", "./", "../", "ROOT/", "ROOT/../", "ROOTbeside/")
ENDS = ("", "", "/", "/.", "/..", "/file", "/secret")
SEEDS = st.integers(0, 2**64)


def paths_of(seed: int, root: Path, count: int = 100) -> list[str]:
    """Paths at random; as many by themselves would take Hypothesis longer than all walks together."""
    chosen = random.Random(seed)
    starts = [start.replace("ROOT", str(root)) for start in STARTS]
    return [
        chosen.choice(starts)
        + "/".join(chosen.choices(NAMES + MORE_NAMES, k=chosen.randrange(9)))
        + chosen.choice(ENDS)
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Tree:
    root: Path
    inodes: frozenset[tuple[int, int]]  # of everything below the root, itself included


def _inodes(root: Path) -> frozenset[tuple[int, int]]:
    seen = {(root.stat().st_dev, root.stat().st_ino)}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            at = Path(folder, name).lstat()
            seen.add((at.st_dev, at.st_ino))
    return frozenset(seen)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with swapping_tree(tmp_path_factory.mktemp("paths")) as made:
        yield made


@contextmanager
def swapping_tree(top: Path) -> Iterator[Tree]:
    """A root with links of every kind, and secrets around it. A thread swaps `swapped`: a folder, a link outside."""
    root = top / "root"
    for folder in ("a/b/deep", "in", "swap-folder/a"):
        (root / folder).mkdir(parents=True)
    for name in ("file", "a/file", "a/b/file", "a/b/deep/file", "swap-folder/file", "swap-folder/secret"):
        (root / name).write_text("inside")
    for name in ("secret", "file", "a"):
        (top / name).write_bytes(SECRET)
    (top / "rootbeside").mkdir()
    (top / "rootbeside" / "file").write_bytes(SECRET)
    for folder in (root, root / "a", root / "a/b"):
        (folder / "up").symlink_to("..")
        (folder / "out").symlink_to("../../../../" * 3)
        (folder / "absolute").symlink_to(top)
        (folder / "round").symlink_to("round")
    (root / "in" / "in").symlink_to("../a/b")
    inodes = _inodes(root)
    (root / "swap-link").symlink_to(top)
    (root / "swap-folder").rename(root / "swapped")
    stop = threading.Event()
    swapping = threading.Thread(target=_swap, args=(root, stop))
    swapping.start()
    yield Tree(root, inodes)
    stop.set()
    swapping.join()


def _swap(root: Path, stop: threading.Event) -> None:
    swapped, folder, link = root / "swapped", root / "swap-folder", root / "swap-link"
    while not stop.is_set():
        with suppress(OSError):  # of a folder that a test has made in between
            swapped.rename(folder)
            link.rename(swapped)
            swapped.rename(link)
            folder.rename(swapped)


@pytest.mark.parametrize("opener", BOTH)
@settings(deadline=None, max_examples=100)
@given(seed=SEEDS)
def test_what_is_opened_lies_below_the_root(opener: Opener, tree: Tree, seed: int) -> None:
    root = os.open(tree.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path in paths_of(seed, tree.root):
            try:
                opened = opener(root, path, os.O_RDONLY | os.O_NONBLOCK)
            except (OSError, ValueError):
                continue
            at = os.fstat(opened)
            os.close(opened)
            assert (at.st_dev, at.st_ino) in tree.inodes, path
    finally:
        os.close(root)


@pytest.mark.parametrize("opener", [partial(open_by_kernel, resolve=0), partial(open_by_steps, step_flags=0)])
def test_the_same_paths_leave_the_root_where_nothing_holds_them(opener: Opener, tree: Tree) -> None:
    left = 0
    root = os.open(tree.root, os.O_RDONLY | os.O_DIRECTORY)
    for path in paths_of(1, tree.root, 1000):
        with suppress(OSError, ValueError):
            opened = opener(root, path, os.O_RDONLY | os.O_NONBLOCK)
            at = os.fstat(opened)
            left += (at.st_dev, at.st_ino) not in tree.inodes
            os.close(opened)
    os.close(root)
    assert left > 0


@pytest.mark.parametrize("opener", BOTH)
def test_what_tools_read_and_write_lies_below_the_root(opener: Opener, tmp_path: Path) -> None:
    with swapping_tree(tmp_path) as tree:

        @settings(deadline=None, max_examples=15)
        @given(seed=SEEDS)
        def read_and_write(seed: int) -> None:
            files = RootedFiles(tree.root, opener)
            for path in paths_of(seed, tree.root):
                with suppress(ToolFailure):
                    assert SECRET not in files.read(path)
                with suppress(ToolFailure):
                    files.write(f"{path}/new", b"inside")

        read_and_write()
        assert any("new" in files for _, _, files in os.walk(tree.root))
    assert {entry.name for entry in tmp_path.iterdir()} == {"root", "secret", "file", "a", "rootbeside"}
    assert {entry.name for entry in (tmp_path / "rootbeside").iterdir()} == {"file"}
    assert (tmp_path / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("opener", BOTH)
def test_a_link_swapped_during_a_walk_leads_nowhere(opener: Opener, tree: Tree) -> None:
    """Both states are met, or nothing was tried."""
    files = RootedFiles(tree.root, opener)
    met: dict[str, int] = {"inside": 0, "refused": 0}
    for _ in range(200_000):
        try:
            assert files.read("swapped/secret") == b"inside"
            met["inside"] += 1
        except ToolFailure:
            met["refused"] += 1
        if min(met.values()) > 100:
            break
    assert min(met.values()) > 0


@pytest.mark.parametrize("opener", BOTH)
@pytest.mark.parametrize(
    ("path", "inside_it"),
    [
        ("a/../file", True),
        ("a/up/file", True),
        ("in/in/file", True),
        ("a/b/up/up/file", True),
        ("./a//b/./file", True),
        ("a/b/up/up/up/file", False),
        ("../root/file", False),
        ("out/secret", False),
        ("absolute/secret", False),
        ("absolute/root/file", False),  # it leaves the root on its way back
    ],
)
def test_both_walks_follow_the_same_links(opener: Opener, tree: Tree, path: str, inside_it: bool) -> None:
    root = os.open(tree.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not inside_it:
            with pytest.raises(OSError, match="cross-device"):
                opener(root, path, os.O_RDONLY)
            return
        opened = opener(root, path, os.O_RDONLY)
        assert os.read(opened, 100) == b"inside"
        os.close(opened)
    finally:
        os.close(root)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("a/../b", "b"),
        ("/r/a", "a"),
        ("//r/a", "a"),
        ("/r", "."),
        ("./", "."),
        ("/r/x/..", "."),
        ("~/x", "~/x"),
        ("/rbeside/a", None),
        ("a/../..", None),
        ("/", None),
        ("..", None),
    ],
)
def test_paths_by_their_words(path: str, plain: str | None) -> None:
    if plain is None:
        with pytest.raises(ToolFailure, match="leads out of the root"):
            inside(path, Path("/r"))
    else:
        assert inside(path, Path("/r")) == plain
