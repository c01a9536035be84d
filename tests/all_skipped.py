"""On CI a kind of test that was skipped to the last one fails the run: a missing program must not pass unseen."""

from __future__ import annotations

import os
from typing import Final

import pytest

CLIENTS: Final = "tests/clients/"
NAMESPACES: Final = "in network namespaces"


class SkipCount:
    """Which kinds of test ran, and why the others were skipped, from the reports of a run."""

    def __init__(self) -> None:
        self._ran: set[str] = set()
        self._reasons: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for kind in kinds_of(report):
            if report.skipped and not hasattr(report, "wasxfail"):
                reason = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
                self._reasons.setdefault(kind, set()).add(str(reason).removeprefix("Skipped: "))
            elif report.when == "call" or report.failed:
                self._ran.add(kind)

    def complaints(self) -> list[str]:
        """One line for each kind of which every test was skipped."""
        return [
            f"every test {kind} was skipped: {'; '.join(sorted(reasons))}"
            for kind, reasons in sorted(self._reasons.items())
            if kind not in self._ran
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.complaints() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for complaint in self.complaints():
            terminalreporter.write_line(f"FAILED on CI: {complaint}", red=True, bold=True)


def kinds_of(report: pytest.TestReport) -> list[str]:
    """What must not be missing as a whole: the network namespaces, and each client by itself."""
    kinds = [NAMESPACES] if "netns" in report.keywords else []
    path = report.nodeid.partition("::")[0]
    return [*kinds, f"of {path}"] if path.startswith(CLIENTS) else kinds


def pytest_configure(config: pytest.Config) -> None:
    in_worker = hasattr(config, "workerinput")  # of pytest-xdist: its reports come together in the main process
    if os.environ.get("CI") == "true" and not in_worker:
        config.pluginmanager.register(SkipCount())
