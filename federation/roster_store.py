"""The list of members in the data directory. Its presence is what makes a node paired."""

from __future__ import annotations

from pathlib import Path

from federation.atomic_file import write_atomically
from federation.errors import RosterError
from federation.roster import MAX_ROSTER_BYTES, Roster, parse_roster

ROSTER_FILE = "roster.json"


def load_roster(data_dir: Path) -> Roster | None:
    """The kept list; None for a node that is open. Blocks.

    Raises RosterError for a file that cannot be used: to go on without it would open a paired node to everybody.
    """
    path = data_dir / ROSTER_FILE
    try:
        with path.open("rb") as file:
            return parse_roster(file.read(MAX_ROSTER_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RosterError(f"cannot read {path} ({error.strerror}): make it readable, or use --data-dir") from error
    except RosterError as error:
        raise RosterError(
            f"{path} is {error}: restore it from a backup; without the file this node is open again, "
            "and must be invited to come back"
        ) from error


def save_roster(data_dir: Path, roster: Roster | None) -> None:
    """Keep the list, mode 0600; None removes it. Blocks. Raises RosterError with the remedy."""
    path = data_dir / ROSTER_FILE
    try:
        if roster is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, roster.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise RosterError(f"cannot write {path} ({error.strerror}): it holds until this node stops") from error
