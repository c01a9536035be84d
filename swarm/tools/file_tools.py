"""The tools that read and change files: `read`, `write`, `edit`. They block, and are run in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from federation.printable_text import one_line
from swarm.tools.definitions import MAX_FILE_BYTES
from swarm.tools.rooted_files import RootedFiles, named
from swarm.tools.tool import MAX_OUTPUT_CHARS, ToolFailure, ToolResult

_BOM: Final = "\ufeff"
FileTool = Callable[[RootedFiles, Mapping[str, Any]], ToolResult]


def read(files: RootedFiles, arguments: Mapping[str, Any]) -> ToolResult:
    """Lines of a text file, numbered: as many whole ones as an output holds, and how to go on."""
    path, first = arguments["path"], int(arguments.get("offset", 1))
    text = _text(files.read(path), path, errors="replace")
    if not text:
        return ToolResult("(the file is empty)")
    lines = text.removesuffix("\n").split("\n")  # as grep and compilers count; Python knows more ends of lines
    if first > len(lines):
        raise ToolFailure(f"{named(path)} has {len(lines)} lines: there is no line {first}")
    last = min(len(lines), first - 1 + int(arguments.get("limit", len(lines))))
    shown: list[str] = []
    room = MAX_OUTPUT_CHARS
    for number in range(first, last + 1):
        whole = lines[number - 1].removesuffix("\r")
        shown_line = one_line(whole[: 2 * MAX_OUTPUT_CHARS])  # to clean a million characters takes a second
        over = len(whole) - 2 * MAX_OUTPUT_CHARS
        line = f"{number}\t{shown_line}"
        if len(line) > room or over > 0:
            if shown:
                break
            missing = max(0, len(line) - room) + max(0, over)
            line = f"{line[:room]} [… {missing} characters cut …]"  # one line, longer than all there is room for
            room = 0
        shown.append(line)
        room -= len(line) + 1
    end = first - 1 + len(shown)
    cut = end < last or room < 0  # none is left below a line that was cut
    if end < len(lines):
        shown.append(f"[… lines {first} to {end} of {len(lines)}; go on with offset {end + 1} …]")
    return ToolResult("\n".join(shown), truncated=cut)


def write(files: RootedFiles, arguments: Mapping[str, Any]) -> ToolResult:
    """All of a file, new or in the place of another."""
    path, data = arguments["path"], _encoded(arguments["content"], "content")
    made = files.write(path, data)
    return ToolResult(f"{'made' if made else 'replaced'} {named(path)}, {len(data)} bytes")


def edit(files: RootedFiles, arguments: Mapping[str, Any]) -> ToolResult:
    """Exact text of a file replaced: the one place where it is, or every one."""
    path, old, new = arguments["path"], arguments["old"], arguments["new"]
    text = _text(files.read(path), path)
    if not old:
        raise ToolFailure("old is empty: give the text to replace, or use write")
    if old == new:
        raise ToolFailure("old and new are the same: nothing would change")
    if old not in text and "\r\n" in text and "\r\n" not in old:  # models write the line ends that they were shown
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
    count = text.count(old)
    if count == 0:
        raise ToolFailure(f"old is not in {named(path)} as it is written: read the file and copy it exactly")
    if count > 1 and not arguments.get("all", False):
        lines = ", ".join(map(str, _lines_of(text, old)))
        raise ToolFailure(f"old is in {named(path)} {count} times (lines {lines}): give more of it, or set all")
    length = len(text) + count * (len(new) - len(old))
    if length > MAX_FILE_BYTES:  # counted before it is made: a million times a long text has no room in any memory
        raise ToolFailure(f"the file would have {length} characters, and at most {MAX_FILE_BYTES} are written")
    data = _encoded(text.replace(old, new), "new")
    files.write(path, data)
    places = "1 place" if count == 1 else f"{count} places"
    return ToolResult(f"replaced in {named(path)}, {places} (line {_lines_of(text, old)[0]})")


FILE_TOOLS: Final[Mapping[str, FileTool]] = {"read": read, "write": write, "edit": edit}


def is_binary(data: bytes) -> bool:
    """Whether it is no text: no file of text has a zero byte."""
    return b"\0" in data


def _text(data: bytes, path: str, errors: str = "strict") -> str:
    if is_binary(data):
        raise ToolFailure(f"{named(path)} is a binary file of {len(data)} bytes: look at it with a program by bash")
    try:
        return data.decode("utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise ToolFailure(
            f"{named(path)} is not UTF-8 (at byte {error.start}), and would not stay as it is: change it with bash"
        ) from error


def _encoded(text: str, argument: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ToolFailure(f"{argument} holds half a character at {error.start}: write it again") from error
    if len(data) > MAX_FILE_BYTES:
        raise ToolFailure(f"the file would have {len(data)} bytes, and at most {MAX_FILE_BYTES} are written")
    return data


def _lines_of(text: str, part: str, most: int = 10) -> list[int]:
    """The numbers of the lines in which `part` begins."""
    found: list[int] = []
    at, number, seen = text.find(part), 1, 0
    while at >= 0 and len(found) < most:
        number += text.count("\n", seen, at)
        found.append(number)
        seen = at
        at = text.find(part, at + len(part))
    return found
