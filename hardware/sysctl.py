"""`sysctl` of macOS: names and values of what the kernel knows."""

from collections.abc import Sequence

from hardware.command import Failed, Output, Run, explain


def parse_sysctl(text: str) -> dict[str, str]:
    """Lines "name: value" as a mapping; anything else is skipped."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def read_sysctl(run: Run, command: Sequence[str], timeout_s: float) -> tuple[str, tuple[str, ...]]:
    """What `command` printed ("" if nothing), and a note if it printed nothing.

    A name that this macOS does not know makes sysctl fail, but only after it printed the others.
    """
    match run(command, timeout_s):
        case Output(stdout):
            return stdout, ()
        case Failed(stdout=stdout) if stdout.strip():
            return stdout, ()
        case outcome:
            return "", (explain(outcome),)
