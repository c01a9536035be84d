"""`write` and `edit`: whole or not at all, below the root, and not what runs by itself."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarm.tools import rooted_files
from swarm.tools.beneath import Opener, open_by_kernel, open_by_steps
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from swarm.tools.protected_paths import PROTECTED, protection_of
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.tool import ToolFailure, ToolResult

BOTH = [pytest.param(open_by_kernel, id="kernel"), pytest.param(open_by_steps, id="steps")]


@pytest.fixture(params=BOTH)
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalToolHost]:
    root = tmp_path / "root"
    root.mkdir()
    plan = ToolPlan(("read", "write", "edit"), root)
    async with LocalToolHost(plan, files=RootedFiles(root, request.param)) as running:
        yield running


async def write(host: LocalToolHost, path: str, content: str = "new") -> ToolResult:
    return await host.execute("write", {"path": path, "content": content})


async def edit(host: LocalToolHost, old: str, new: str, *, every: bool = False, path: str = "file") -> ToolResult:
    return await host.execute("edit", {"path": path, "old": old, "new": new, "all": every})


async def test_a_file_is_made_with_its_folders(host: LocalToolHost) -> None:
    result = await write(host, "a/b/c.txt", "text\n")
    assert (result.exit_code, result.output) == (0, "made a/b/c.txt, 5 bytes")
    assert (host.plan.root / "a/b/c.txt").read_text() == "text\n"
    assert (await write(host, "a/b/c.txt", "")).output == "replaced a/b/c.txt, 0 bytes"


async def test_a_file_that_is_replaced_keeps_its_mode_and_leaves_nothing_beside_it(host: LocalToolHost) -> None:
    script = host.plan.root / "run.sh"
    script.write_text("old")
    script.chmod(0o4755)
    assert (await write(host, "run.sh")).exit_code == 0
    assert stat.S_IMODE(script.stat().st_mode) == 0o755  # and does not run as whoever owned it
    assert [path.name for path in host.plan.root.iterdir()] == ["run.sh"]


async def test_readers_see_the_old_file_or_the_new_one(host: LocalToolHost) -> None:
    path = host.plan.root / "file"
    path.write_text("x" * 100_000)
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    looking = threading.Thread(target=look)
    looking.start()
    for letter in "abcdefgh":
        await write(host, "file", letter * 100_000)
    stop.set()
    looking.join()
    assert all(len(text) == 100_000 and len(set(text)) == 1 for text in seen)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../beside", "leads out of the root"),
        ("/tmp/beside", "leads out of the root"),
        ("out/beside", "leads out of the root"),
        (".", "is a folder"),
        ("folder", "is a folder"),
        ("link", "is a link to linked: write to the file itself"),
        ("outside", "is a link to ../secret: write to the file itself"),
        ("two-names", "has 2 names (hard links)"),
        ("pipe", "is a named pipe"),
        ("linked/below", "does not exist: a part of the path is a file"),
        ("n" * 300, "is too long a path"),
        (".git/hooks/pre-commit", "is protected, since git runs its hooks"),
        ("sub/.git", "is protected"),
        (".GIT/config", "is protected"),
        (".g\u200cit/config", "is protected"),
        ("alias/config", "is protected"),
        (".envrc", "is protected, since direnv runs it"),
        ("node_modules/.bin/tsc", "is protected, since npm"),
        ("node_modules/.bin/../.bin/x", "is protected"),
    ],
)
async def test_what_is_not_written_says_why(host: LocalToolHost, path: str, words: str) -> None:
    root = host.plan.root
    (root.parent / "secret").write_text("as it was")
    os.link(root.parent / "secret", root / "two-names")
    (root / "outside").symlink_to("../secret")
    (root / "linked").write_text("as it was")
    (root / "link").symlink_to("linked")
    (root / "out").symlink_to("..")
    (root / "folder").mkdir()
    (root / ".git").mkdir()
    (root / "alias").symlink_to(".git")
    os.mkfifo(root / "pipe")
    before = sorted(root.rglob("*"))
    result = await write(host, path)
    assert result.exit_code == 1
    assert words in result.output
    assert sorted(root.rglob("*")) == before
    assert (root.parent / "secret").read_text() == (root / "linked").read_text() == "as it was"


async def test_what_is_like_a_protected_name_is_written(host: LocalToolHost) -> None:
    for path in (".gitignore", "git/config", "node_modules/x/bin/a", "envrc", ".github/workflows/ci.yml"):
        assert (await write(host, path)).exit_code == 0


async def test_an_edit_replaces_the_one_place(host: LocalToolHost) -> None:
    path = host.plan.root / "file"
    path.write_bytes(b"one\ntwo\nthree two\n")
    assert (await edit(host, "one", "1")).output == "replaced in file, 1 place (line 1)"
    twice = await edit(host, "two", "2")
    assert (twice.exit_code, twice.output) == (1, "old is in file 2 times (lines 2, 3): give more of it, or set all")
    assert (await edit(host, "two", "2", every=True)).output == "replaced in file, 2 places (line 2)"
    assert path.read_bytes() == b"1\n2\nthree 2\n"


async def test_line_ends_stay_as_they_are(host: LocalToolHost) -> None:
    path = host.plan.root / "file"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert (await edit(host, "one\ntwo", "1\n2")).exit_code == 0
    assert path.read_bytes() == b"\xef\xbb\xbf1\r\n2\r\n"


@pytest.mark.parametrize(
    ("content", "old", "new", "words"),
    [
        (b"text", "absent", "x", "is not in file as it is written"),
        (b"text", "text", "text", "are the same"),
        (b"text", "", "x", "old is empty"),
        (b"te\xffxt", "te", "x", "is not UTF-8 (at byte 2)"),
        (b"te\0xt", "te", "x", "binary file"),
        (b"x" * 1_000_001, "x", "y", "at most 1000000 are read"),
        (b"xy", "x", "z" * 1_000_000, "at most 1000000 are written"),
        (b"text", "text", "\ud800", "half a character"),
    ],
)
async def test_an_edit_that_cannot_be_says_why(
    host: LocalToolHost, content: bytes, old: str, new: str, words: str
) -> None:
    path = host.plan.root / "file"
    path.write_bytes(content)
    result = await edit(host, old, new)
    assert result.exit_code == 1
    assert words in result.output
    assert path.read_bytes() == content


async def test_an_edit_is_measured_before_it_is_made(host: LocalToolHost) -> None:
    """A million places, each of a million characters: no memory has room for that."""
    path = host.plan.root / "file"
    path.write_text("a" * 1_000_000)
    result = await edit(host, "a", "b" * 1_000_000, every=True)
    assert "would have 1000000000000 characters, and at most 1000000 are written" in result.output
    assert path.read_text() == "a" * 1_000_000


async def test_nothing_is_written_very_deep(host: LocalToolHost) -> None:
    result = await write(host, "a/" * 1500 + "file")
    assert "lies more than 100 folders deep" in result.output
    assert not list(host.plan.root.iterdir())
    assert (await write(host, "a/" * 99 + "file")).exit_code == 0


async def test_edits_at_once_are_all_kept(host: LocalToolHost) -> None:
    import asyncio

    (host.plan.root / "file").write_text("".join(f"<{number}>" for number in range(20)))
    results = await asyncio.gather(*(edit(host, f"<{number}>", f"[{number}]") for number in range(20)))
    assert {result.exit_code for result in results} == {0}
    assert (host.plan.root / "file").read_text() == "".join(f"[{number}]" for number in range(20))


@pytest.mark.parametrize("opener", BOTH)
def test_folders_are_protected_by_what_they_are_not_by_how_they_are_reached(opener: Opener, tmp_path: Path) -> None:
    """Also where the system does not say what an open folder is called."""
    (tmp_path / "deep/.vscode/sub").mkdir(parents=True)
    (tmp_path / "short").symlink_to("deep/.vscode/sub")
    files = RootedFiles(tmp_path, opener)
    with pytest.raises(ToolFailure, match=r"\.vscode is protected"):
        files.write("short/tasks.json", b"")
    root, folder = (os.open(path, os.O_RDONLY) for path in (tmp_path, tmp_path / "deep/.vscode/sub"))
    try:
        assert rooted_files.parts_by_steps(root, folder, "short") == ("deep", ".vscode", "sub")
    finally:
        os.close(root)
        os.close(folder)


def test_every_rule_says_why_and_holds_at_any_depth() -> None:
    for rule in PROTECTED:
        assert rule.why
        assert protection_of(("a", *rule.parts, "b")) is rule
        assert protection_of(rule.parts) is rule
        assert protection_of(tuple(part.upper() for part in rule.parts)) is rule
        assert protection_of(("a", f"{rule.parts[0]}x")) is None
