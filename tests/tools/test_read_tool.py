"""`read`: numbered lines of a text file below the root, and a clear result for everything else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from swarm.errors import BadRequest
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from swarm.tools.tool import MAX_OUTPUT_CHARS, ToolResult


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "notes.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "secret.txt").write_text("not yours")
    return folder


async def read(root: Path, **arguments: object) -> ToolResult:
    async with LocalToolHost(ToolPlan(("read",), root)) as host:
        return await host.execute("read", arguments)  # type: ignore[arg-type]


async def test_lines_are_numbered(root: Path) -> None:
    result = await read(root, path="notes.txt")
    assert (result.output, result.exit_code, result.truncated) == ("1\tone\n2\ttwo\n3\tthree", 0, False)


async def test_a_range_says_how_to_go_on(root: Path) -> None:
    result = await read(root, path="notes.txt", offset=2, limit=1)
    assert result.output == "2\ttwo\n[… lines 2 to 2 of 3; go on with offset 3 …]"


async def test_lines_are_counted_as_grep_counts_them(root: Path) -> None:
    (root / "odd.txt").write_bytes("one\x0c\u2028still\rone\r\n\ntwo\r\n".encode())
    assert (await read(root, path="odd.txt")).output == "1\tone  still one\n2\t\n3\ttwo"
    (root / "odd.txt").write_bytes(b"\n")
    assert (await read(root, path="odd.txt")).output == "1\t"
    (root / "odd.txt").write_bytes(b"")
    assert (await read(root, path="odd.txt")).output == "(the file is empty)"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
async def test_a_device_is_not_read(root: Path) -> None:
    os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    result = await read(root, path="zero")
    assert (result.exit_code, result.output) == (1, "zero is a device: only files can be read")


async def test_an_absolute_path_below_the_root_is_one_of_it(root: Path) -> None:
    assert (await read(root, path=str(root / "notes.txt"))).exit_code == 0


async def test_a_long_file_comes_in_parts_that_join(root: Path) -> None:
    lines = [f"line {number} of many" for number in range(1, 1001)]
    (root / "long.txt").write_text("\n".join(lines))
    seen: list[str] = []
    while len(seen) < len(lines):
        result = await read(root, path="long.txt", offset=len(seen) + 1)
        shown = [line for line in result.output.split("\n") if not line.startswith("[…")]
        assert len("\n".join(shown)) <= MAX_OUTPUT_CHARS
        assert result.truncated == (len(seen) + len(shown) < len(lines))
        seen += shown
    assert seen == [f"{number}\t{line}" for number, line in enumerate(lines, 1)]


@pytest.mark.parametrize("count", [3000, 6000, 6001, 999_998])
async def test_one_endless_line_is_cut(root: Path, count: int) -> None:
    (root / "long.txt").write_text("x" * count + "\ny")
    result = await read(root, path="long.txt")
    assert result.truncated
    assert len(result.output) < MAX_OUTPUT_CHARS + 100
    assert f" [… {count - 2998} characters cut …]\n[… lines 1 to 1 of 2; go on with offset 2 …]" in result.output
    assert (await read(root, path="long.txt", offset=2)).output == "2\ty"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../secret.txt", "leads out of the root"),
        ("/etc/passwd", "leads out of the root"),
        ("../root-beside/x", "leads out of the root"),
        ("link", "leads out of the root"),
        ("absent.txt", "does not exist"),
        ("notes.txt/x", "does not exist"),
        (".", "is a folder"),
        ("pipe", "is a named pipe"),
        ("binary", "binary file"),
        ("large", "at most 1000000 are read"),
        ("circle", "leads in a circle"),
        ("a\0b", "zero character"),
        ("\ud800", "half a character"),
        ("n" * 300, "too long a path"),
        ("n" * 1_000_000, "n… is too long a path"),
        ("../" + "n" * 1_000_000, "n… leads out of the root"),
    ],
)
async def test_what_cannot_be_read_is_a_result_that_says_why(root: Path, path: str, words: str) -> None:
    (root.parent / "root-beside").mkdir()
    (root.parent / "root-beside" / "x").write_text("not yours")
    (root / "link").symlink_to("../secret.txt")
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    (root / "binary").write_bytes(b"\x7fELF\0\0")
    (root / "large").write_bytes(b"x" * 1_000_001)
    result = await read(root, path=path)
    assert result.exit_code == 1
    assert words in result.output
    assert "not yours" not in result.output


async def test_a_root_that_vanishes_is_a_result_and_comes_back(root: Path) -> None:
    elsewhere = root.with_name("elsewhere")
    async with LocalToolHost(ToolPlan(("read",), root)) as host:
        Path.rename(root, elsewhere)
        gone = await host.execute("read", {"path": "notes.txt"})
        Path.rename(elsewhere, root)
        assert (await host.execute("read", {"path": "notes.txt"})).exit_code == 0
    assert gone.exit_code == 1
    assert "is gone" in gone.output


async def test_nothing_in_a_file_acts_on_a_terminal(root: Path) -> None:
    (root / "evil.txt").write_text("\x1b[31mred\x1b]0;title\x07 \u202eright\tleft\n")
    assert (await read(root, path="evil.txt")).output == "1\tred right\tleft"


@pytest.mark.parametrize(
    ("tool", "arguments", "param"),
    [
        ("rm", {}, "tool"),
        ("write", {"path": "x", "content": ""}, "tool"),  # not named in the plan
        ("read", {}, "arguments.path"),
        ("read", {"path": 1}, "arguments.path"),
        ("read", {"path": "x", "offset": 0}, "arguments.offset"),
        ("read", {"path": "x", "lines": 3}, "arguments.lines"),
        ("read", {"path": ["x" * 5000]}, "arguments.path"),
    ],
)
async def test_arguments_that_break_the_schema_are_a_bad_request(
    root: Path, tool: str, arguments: dict[str, object], param: str
) -> None:
    async with LocalToolHost(ToolPlan(("read",), root)) as host:
        with pytest.raises(BadRequest) as caught:
            await host.execute(tool, arguments)  # type: ignore[arg-type]
    assert caught.value.param == param
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("timeout_s", [0, -1, 601, float("nan")])
async def test_a_time_that_no_call_may_take_is_a_bad_request(root: Path, timeout_s: float) -> None:
    async with LocalToolHost(ToolPlan(("read",), root)) as host:
        with pytest.raises(BadRequest) as caught:
            await host.execute("read", {"path": "notes.txt"}, timeout_s)
    assert caught.value.param == "timeout_s"
