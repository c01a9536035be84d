"""The list of members in the data directory. Its presence is what makes a node paired.

Beside it lies a mark, `paired`, from when the list is first on disk until the node is open again: where the list alone
is gone, the node refuses to start instead of opening itself to everybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from federation.errors import RosterError
from federation.roster import MAX_ROSTER_BYTES, Roster, parse_roster
from federation.small_files import remove_durably, write_atomically

ROSTER_FILE: Final = "roster.json"
MARK_FILE: Final = "paired"
_MARK: Final = (
    b"The node of this folder is paired: its members are in roster.json, and without that file it does not start.\n"
    b"To make it open to everybody on the network, delete both files while it is stopped.\n"
)


def load_roster(data_dir: Path) -> Roster | None:
    """The kept list; None for a node that is open. Blocks.

    Raises RosterError for a file that cannot be used: to go on without it would open a paired node to everybody.
    """
    path, mark = data_dir / ROSTER_FILE, data_dir / MARK_FILE
    try:
        with path.open("rb") as file:
            return parse_roster(file.read(MAX_ROSTER_BYTES + 1))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RosterError(f"cannot read {path} ({error.strerror}): make it readable, or use --data-dir") from error
    except RosterError as error:
        raise RosterError(
            f"{path} is {error}: restore it from a backup; without the file and {mark} this node is open again, "
            "and must be invited to come back"
        ) from error
    try:
        mark.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RosterError(f"cannot read {mark} ({error.strerror}): make it readable, or use --data-dir") from error
    raise RosterError(
        f"this node is paired, and its list of members, {path}, is gone: restore it from a backup. To have the node "
        f"open to everybody on the network, delete {mark}, too; to be a member again it must be invited then"
    )


def save_roster(data_dir: Path, roster: Roster | None) -> None:
    """Keep the list, mode 0600, on disk when it returns; None removes it. Blocks.

    Raises RosterError: then what is on disk is what it was before, and where even that cannot be, the error says so.
    """
    path = data_dir / ROSTER_FILE
    try:
        kept = _read(path)
        try:
            _write(data_dir, None if roster is None else roster.model_dump_json(indent=1).encode() + b"\n")
        except OSError as error:
            raise RosterError(f"cannot write {path} ({_put_back(data_dir, kept, error)})") from error
    except OSError as error:
        raise RosterError(f"cannot read {path} ({error.strerror}): make it readable, or use --data-dir") from error


def _put_back(data_dir: Path, kept: bytes | None, error: OSError) -> str:
    """Have the disk as it was; why that was needed, and whether it worked."""
    words = error.strerror or str(error)
    try:
        if not _reads_as(data_dir / ROSTER_FILE, kept):
            _write(data_dir, kept)
        elif kept is not None and not (data_dir / MARK_FILE).exists():
            write_atomically(data_dir / MARK_FILE, _MARK)
    except OSError:
        if _reads_as(data_dir / ROSTER_FILE, kept):
            return words
        return f"{words}; the new list may be there all the same: see `swarm peers` after the next start"
    return words


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _reads_as(path: Path, kept: bytes | None) -> bool:
    try:
        return _read(path) == kept
    except OSError:
        return False


def _write(data_dir: Path, content: bytes | None) -> None:
    """The mark is there only while a list is, so that being killed in between leaves a node that starts."""
    path, mark = data_dir / ROSTER_FILE, data_dir / MARK_FILE
    if content is None:
        remove_durably(mark)
        remove_durably(path)
        return
    write_atomically(path, content)
    if not mark.exists():
        write_atomically(mark, _MARK)
