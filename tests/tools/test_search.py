"""`glob` and `grep`: what they find, and that no pattern and no link leads them astray, by ripgrep and by `re`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.tools.glob_patterns import GlobPattern
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.search import Searchers, find_ripgrep, glob
from swarm.tools.search_worker import Search, ripgrep_command
from swarm.tools.tool import ToolFailure, ToolResult
from tests.doubles.tool_hosts import until
from tests.doubles.waiting import eventually

RIPGREP = find_ripgrep()
WAYS = [
    pytest.param(RIPGREP, id="ripgrep", marks=pytest.mark.skipif(RIPGREP is None, reason="ripgrep is not installed")),
    pytest.param(None, id="re"),
]
BOMB = "(a|a|a|a|a)*(a*)*b"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name, text in {
        "a.py": "import os\nneedle = 1\n",
        "b.txt": "a needle\n",
        "sub/c.py": "x\nNeedle\nneedle --files\n",
        "sub/deep/d.py": "nothing\n",
        ".hidden/e.py": "needle\n",
        "node_modules/f.py": "needle\n",
        ".git/g.py": "needle\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "secret.py").write_text("needle outside\n")
    (folder / "out.py").symlink_to("../secret.py")
    (folder / "up").symlink_to("..")
    (folder / "binary").write_bytes(b"needle\0")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(params=WAYS)
async def searchers(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[Searchers]:
    made = Searchers(RootedFiles(root), request.param)
    yield made
    await made.close()


async def grep(searchers: Searchers, limit_s: float = 30, **arguments: Any) -> ToolResult:
    return await searchers.grep(arguments, limit_s)


async def test_lines_are_found_with_their_places(searchers: Searchers) -> None:
    result = await grep(searchers, pattern="needle")
    assert result.output.splitlines() == [
        ".hidden/e.py:1: needle",
        "a.py:2: needle = 1",
        "b.txt:1: a needle",
        "sub/c.py:3: needle --files",
    ]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (
            {"pattern": "needle", "ignore_case": True, "path": "sub"},
            ["sub/c.py:2: Needle", "sub/c.py:3: needle --files"],
        ),
        ({"pattern": "needle", "path": "sub/c.py"}, ["sub/c.py:3: needle --files"]),
        ({"pattern": "needle", "glob": "*.txt"}, ["b.txt:1: a needle"]),
        ({"pattern": "needle", "glob": "sub/*.{py,pyi}"}, ["sub/c.py:3: needle --files"]),
        ({"pattern": "^needle$", "path": "node_modules"}, ["node_modules/f.py:1: needle"]),
        ({"pattern": "--files"}, ["sub/c.py:3: needle --files"]),
        ({"pattern": "--pre=/bin/sh"}, ["no line matches --pre=/bin/sh"]),
        ({"pattern": "needle", "glob": "--pre=/bin/sh"}, ["no line matches needle"]),
        ({"pattern": "needle", "glob": "!*.py"}, ["no line matches needle"]),
        ({"pattern": "absent"}, ["no line matches absent"]),
    ],
)
async def test_what_is_asked_for_is_found(searchers: Searchers, arguments: dict[str, Any], found: list[str]) -> None:
    result = await grep(searchers, **arguments)
    assert (result.exit_code, result.output.splitlines()) == (0, found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pattern": "(x"}, "unclosed|unterminated|missing"),
        ({"pattern": "x", "path": "absent"}, "absent does not exist"),
        ({"pattern": "x", "path": ".."}, "leads out of the root"),
        ({"pattern": "x", "path": "up/secret.py"}, "leads out of the root"),
        ({"pattern": "x", "path": "out.py"}, "leads out of the root"),
        ({"pattern": "x", "path": "pipe"}, "only be looked for in files and folders"),
        ({"pattern": "x", "glob": "../*"}, "leads out of the folder"),
        ({"pattern": "x", "glob": "{a,b}" * 9}, "more than 64 alternatives"),
        ({"pattern": "x" * 1001}, "more than 1000 characters"),
        ({"pattern": "\ud800"}, "half a character"),
        ({"pattern": "a\0b"}, "zero character"),
    ],
)
async def test_what_cannot_be_searched_says_why(searchers: Searchers, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolFailure, match=words):
        await grep(searchers, **arguments)
    assert (await grep(searchers, pattern="import os")).output == "a.py:1: import os"


async def test_many_matches_are_cut_and_counted(searchers: Searchers, root: Path) -> None:
    (root / "many.txt").write_text("needle and more\n" * 10_000)
    result = await grep(searchers, pattern="needle", path="many.txt")
    assert result.truncated
    assert result.output.startswith("many.txt:1: needle and more\nmany.txt:2:")
    assert result.output.endswith("[… more than 200 lines match; narrow the search …]")
    assert len(result.output) < 3100


async def test_one_endless_line_is_cut(searchers: Searchers, root: Path) -> None:
    (root / "long.txt").write_text("needle" + "x" * 1_000_000)
    result = await grep(searchers, pattern="needle", path="long.txt")
    assert result.exit_code == 0
    assert len(result.output) < 400


async def test_a_pattern_that_would_take_for_ever_ends(searchers: Searchers, root: Path) -> None:
    """ripgrep is done in linear time; Python's process is ended with its time."""
    (root / "bomb.txt").write_text("a" * 100_000)
    if searchers.by_ripgrep:
        assert (await grep(searchers, pattern=BOMB, path="bomb.txt")).output.startswith("no line matches")
    else:
        result = await grep(searchers, limit_s=1, pattern=BOMB, path="bomb.txt")
        assert (result.exit_code, result.timed_out) == (124, True)
        assert "was ended after 1 s" in result.output
    assert (await grep(searchers, pattern="import os")).output == "a.py:1: import os"


async def test_cancelling_a_search_ends_its_process(root: Path) -> None:
    (root / "bomb.txt").write_text("a" * 100_000)
    searchers = Searchers(RootedFiles(root), None)
    before = set(psutil.Process().children())
    searching = asyncio.create_task(searchers.grep({"pattern": BOMB, "path": "bomb.txt"}, 600))
    await eventually(lambda: bool(set(psutil.Process().children()) - before))
    begun = set(psutil.Process().children()) - before
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert not any(process.is_running() for process in begun)
    await searchers.close()


async def test_a_root_that_was_made_again_is_searched(searchers: Searchers, root: Path) -> None:
    await grep(searchers, pattern="needle")
    Path.rename(root, root.with_name("before"))
    with pytest.raises(ToolFailure, match="is gone"):
        await grep(searchers, pattern="needle")
    Path.mkdir(root)
    (root / "new.txt").write_text("needle again")
    assert (await grep(searchers, pattern="needle")).output == "new.txt:1: needle again"


@pytest.fixture
def thief(root: Path) -> Path:
    """A program that reads a file outside, as ripgrep would where a folder became a link while it walks."""
    program = root.parent / "as-rg"
    stolen = "printf 'stolen\\0001:needle\\n'"
    program.write_text(
        f"#!/bin/sh\ncat '{root.parent}/secret.py' >/dev/null && {stolen}\nprintf 'own\\0001:needle\\n'\n"
    )
    program.chmod(0o755)
    assert b"stolen" in subprocess.run([program], capture_output=True, check=True).stdout
    return program


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock is Linux's")
async def test_whatever_ripgrep_does_it_sees_the_root_only(root: Path, thief: Path) -> None:
    searchers = Searchers(RootedFiles(root), str(thief))
    lines = (await grep(searchers, pattern="needle")).output.splitlines()
    await searchers.close()
    # Where this kernel has no Landlock, Python has searched.
    assert lines == ["own:1: needle"] or "a.py:2: needle = 1" in lines


def test_what_is_asked_for_is_never_an_option() -> None:
    search = Search("--pre=evil", "sub", "--pre=evil", ignore_case=False, limit_s=1)
    command = ripgrep_command("rg", True, search)
    assert "--glob=--pre=evil" in command
    assert "--regexp=--pre=evil" in command
    assert command[-2:] == ["--", "."]
    assert not any(word.startswith("--pre") for word in command)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["a.py", ".hidden/e.py", "sub/c.py", "sub/deep/d.py"]),
        ("**/*.py", ["a.py", ".hidden/e.py", "sub/c.py", "sub/deep/d.py"]),
        ("sub/*.py", ["sub/c.py"]),
        ("sub/**", ["sub/c.py", "sub/deep/d.py"]),
        ("sub/**/d.*", ["sub/deep/d.py"]),
        ("?.{txt,md}", ["b.txt"]),
        ("[ab].*", ["a.py", "b.txt"]),
        ("node_modules/*.py", ["node_modules/f.py"]),
    ],
)
def test_files_are_listed_by_pattern(root: Path, pattern: str, found: list[str]) -> None:
    result = glob(RootedFiles(root), {"pattern": pattern})
    assert sorted(result.output.splitlines()) == sorted(found)
    assert glob(RootedFiles(root), {"pattern": f"{root}/{pattern}"}).output.splitlines() or "/" not in pattern


def test_a_folder_is_listed_with_paths_from_the_root(root: Path) -> None:
    assert glob(RootedFiles(root), {"pattern": "*.py", "path": "sub"}).output == "sub/c.py\nsub/deep/d.py"
    assert glob(RootedFiles(root), {"pattern": "*.java"}).output == "no file matches *.java"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pattern": "../*"}, "leads out of the folder"),
        ({"pattern": "/etc/*"}, "leads out of the folder"),
        ({"pattern": "*", "path": "up"}, "leads out of the root"),
        ({"pattern": "*", "path": "a.py"}, "is a file, not a folder"),
        ({"pattern": "/"}, "leads out of the folder"),
        ({"pattern": "./"}, "names nothing"),
    ],
)
def test_what_cannot_be_listed_says_why(root: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolFailure, match=words):
        glob(RootedFiles(root), arguments)


def test_many_files_are_cut_and_counted(tmp_path: Path) -> None:
    for number in range(1200):
        (tmp_path / f"{number:04}.txt").touch()
    result = glob(RootedFiles(tmp_path), {"pattern": "*"})
    assert result.truncated
    assert result.output.startswith("0000.txt\n")
    assert "[… 200 more files; narrow the pattern …]" in result.output


@settings(deadline=None, max_examples=200)
@given(
    pattern=st.lists(st.sampled_from(["**", "*", "a*b", "?", "a", "[!a]*", "*a*a*a*"]), min_size=1, max_size=12),
    parts=st.lists(st.text("ab", min_size=1, max_size=30), min_size=1, max_size=12),
)
def test_patterns_are_matched_in_bounded_time_as_a_simple_matcher_does(pattern: list[str], parts: list[str]) -> None:
    import fnmatch
    import functools

    names = ["**", *pattern] if len(pattern) == 1 and pattern != ["**"] else pattern

    @functools.cache
    def simple(at: int, part: int) -> bool:
        if at == len(names):
            return part == len(parts)
        if names[at] == "**":
            return simple(at + 1, part) or (part < len(parts) and simple(at, part + 1))
        return part < len(parts) and fnmatch.fnmatchcase(parts[part], names[at]) and simple(at + 1, part + 1)

    assert GlobPattern("/".join(pattern)).matches(parts) == simple(0, 0)


async def test_a_pattern_of_names_ends_with_its_time_and_with_its_client(tmp_path: Path) -> None:
    """Each of its alternatives takes a name many steps, and there are many names."""
    for number in range(50):
        (tmp_path / f"{'a' * 200}{number}").touch()
    pattern = "**/" + "{a,b}" * 6 + "*/**/*a*/**/x"
    async with LocalToolHost(ToolPlan(("glob",), tmp_path)) as host:
        result = await host.execute("glob", {"pattern": pattern}, timeout_s=1e-6)
        assert (result.timed_out, result.exit_code) == (True, 124)
        assert "the search was ended after 1e-06 s" in result.output
        assert (await host.execute("glob", {"pattern": pattern})).output.startswith("no file matches")


def test_a_search_for_names_that_nobody_waits_for_is_over(root: Path) -> None:
    with pytest.raises(TimeoutError):
        glob(RootedFiles(root), {"pattern": "*"}, is_over=lambda: True)


def test_a_tree_that_is_very_deep_is_told(tmp_path: Path) -> None:
    """Every folder takes a descriptor while it is walked through, and the node has other use for them."""
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    files = RootedFiles(tmp_path)
    with pytest.raises(ToolFailure, match="holds folders more than 100 deep"):
        glob(files, {"pattern": "*"})
    with files.opened_protected(by_name=False) as (_, protected):
        assert not protected
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


async def test_no_name_of_a_file_reads_like_a_match_in_another(searchers: Searchers, root: Path) -> None:
    (root / "x\n5:needle in no file\na.py").write_text("needle of another file\n")
    (root / "y\n.").mkdir()
    (root / "y\n." / "b.txt").write_text("needle of another file\n")
    (root / "later").write_bytes(b"needle\n" + b"y\n" * 200_000 + b"\0")
    found = (await grep(searchers, pattern="needle", glob="*")).output.splitlines()
    assert "a.py:2: needle = 1" in found
    assert not [line for line in found if line.startswith(("a.py:1", "b.txt:1: needle of", ":", "5:"))]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the end of its time ends it")
def test_a_search_ends_with_a_node_that_is_killed(root: Path) -> None:
    (root / "bomb.txt").write_text("a" * 100_000)
    program = (
        "import asyncio, sys; from pathlib import Path; from swarm.tools.rooted_files import RootedFiles; "
        "from swarm.tools.search import Searchers; "
        "asyncio.run(Searchers(RootedFiles(Path(sys.argv[1])), None).grep({'pattern': sys.argv[2]}, 300))"
    )
    node = psutil.Popen([sys.executable, "-c", program, str(root), BOMB])
    until(node.children)
    (searcher,) = node.children()
    until(lambda: searcher.cpu_times().user > 0.5)  # it is at it
    node.kill()
    node.wait()
    until(lambda: not searcher.is_running())
