"""What one check of `swarm doctor` found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from swarm.gateway.observing.findings import Trouble


class Level(StrEnum):
    """Only `fail` makes the exit code 1. `unknown`: the check was not possible, which is no reason to worry."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was checked; `remedy` says what to do, for every warning and failure."""

    check: str
    level: Level
    message: str
    remedy: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {"check": self.check, "level": str(self.level), "message": self.message, "remedy": self.remedy}


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if anything failed."""
    return int(any(finding.level is Level.FAIL for finding in findings))


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.WARN, message, remedy)


def fail(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.FAIL, message, remedy)


def troubled(check: str, trouble: Trouble) -> Finding:
    """A trouble that the page shows in the same words."""
    level = Level.FAIL if trouble.level == "problem" else Level.WARN
    return Finding(check, level, trouble.what, trouble.remedy)


def unknown(check: str, message: str, remedy: str | None = None) -> Finding:
    return Finding(check, Level.UNKNOWN, message, remedy)
