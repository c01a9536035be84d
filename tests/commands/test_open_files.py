"""The limit of open files is raised as far as the system lets a process raise it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.node_process import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")

SAY = """
import resource
from swarm.node.run import raise_limit
print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ("ulimit -Sn 256; ulimit -Hn 9000", 8192),  # what is wanted, though more may be had
        ("ulimit -Sn 256; ulimit -Hn 600", 600),  # as far as the hard limit
        ("ulimit -Sn 9000; ulimit -Hn 9000", 9000),  # never lowered
    ],
)
def test_the_limit_is_raised(limits: str, raised: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'{limits}; exec "$@"', "sh", sys.executable, "-c", SAY],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(raised)] * 2
