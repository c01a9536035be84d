"""`swarm lend [on [SIZE] | off]`: what the node of this machine lends of its memory to other members; changing it."""

from __future__ import annotations

from pathlib import Path

from federation.printable_text import one_line
from swarm.commands.members import as_json, ask_running, duration
from swarm.commands.output import say
from swarm.control_messages import LEND_PATH, LendBody, Lending
from swarm.errors import SetupError
from swarm.quantities import bytes_of
from swarm.registry.model_memory import size_text


def lend(data_dir: Path, what: str | None, size: str | None, json: bool) -> int:
    """Print what is lent, after lending was turned `on` or `off` if `what` says so. Raises SetupError.

    And SwarmError for what does not work this time.
    """
    lending = ask_running(data_dir, LEND_PATH, Lending, body_of(what, size))
    if lending is None:
        raise SetupError(
            f"no node runs here with {data_dir}: start one with `swarm --federation --lend` "
            "(--data-dir, if you gave it one)"
        )
    say(as_json(lending) if json else lending_text(lending))
    return 0


def body_of(what: str | None, size: str | None) -> LendBody | None:
    """What the node is asked; None: only what it lends. Raises SetupError for a size that is none, or needless."""
    if what is None:
        return None
    if size is None:
        return LendBody(on=what == "on")
    if what == "off":
        raise SetupError(f"`swarm lend off` takes no size (got {size[:40]!r}): it has all of it back")
    try:
        return LendBody(on=True, size_bytes=bytes_of(size))
    except ValueError as error:  # pydantic's, too
        why = str(error) if "is no size" in str(error) else "is out of range: use 1M to 1024T"
        raise SetupError(f"{size[:40]!r} {why}") from error


def lending_text(lending: Lending) -> str:
    """For people: a line for each lease."""
    if lending.bytes_total == 0:
        return "This node lends no memory: `swarm lend on` lends half of this machine's, `swarm lend on 8G` so much."
    total, free = size_text(lending.bytes_total), size_text(lending.bytes_free)
    if lending.draining is not None:
        lines = [f"This node lends nothing more: {lending.draining}." + (" Still lent:" if lending.lent else "")]
    else:
        lines = [f"This node lends {total} to members of its swarm; {free} of it are free. llama.cpp {lending.build}."]
    for part in lending.lent:
        lines.append(
            f"  {size_text(part.bytes)} to {part.node} for {part.model}, for {duration(part.since_s)} now "
            f"({size_text(part.held_bytes)} in use)"
        )
    return "\n".join(map(one_line, lines))
