"""A run on CI whose tests of a kind were all skipped fails and says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = "import pytest\n\n@pytest.mark.skipif(True, reason='needs npm')\ndef test_client(): pass\n"
RAN = "def test_client(): pass\n"
NAMESPACES = """
import pytest
pytestmark = pytest.mark.netns

@pytest.fixture
def network(): pytest.skip("ip is missing")

def test_with_a_network(network): pass
"""
OTHER = "import pytest\n\ndef test_browser(): pytest.skip('no browser')\n"


def run(root: Path, files: dict[str, str], environment: dict[str, str], *options: str) -> tuple[int, str]:
    """Exit code and output of pytest over `files`, in a project of their own."""
    for name, text in {"pytest.ini": "[pytest]\nmarkers = netns: a\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.all_skipped", "-c", str(root / "pytest.ini"), *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI"))}
    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(root)],
        cwd=ROOT,
        env={**clean, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


CI = {"CI": "true"}
FILES = {
    "tests/clients/test_npm.py": SKIPPED,
    "tests/clients/test_python.py": RAN,
    "tests/e2e/test_e2e.py": NAMESPACES,
    "tests/hostile/test_page.py": OTHER,
}


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2")], ids=["in one process", "in several"])
def test_what_was_skipped_to_the_last_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    code, said = run(tmp_path, FILES, CI, *options)
    assert code == 1
    assert "FAILED on CI: every test in network namespaces was skipped: ip is missing" in said
    assert "FAILED on CI: every test of tests/clients/test_npm.py was skipped: needs npm" in said
    assert "test_python.py was" not in said
    assert "test_page.py was" not in said


def test_one_that_ran_is_enough(tmp_path: Path) -> None:
    some = SKIPPED + RAN.replace("test_client", "test_other")
    assert run(tmp_path, {**FILES, "tests/clients/test_npm.py": some, "tests/e2e/test_e2e.py": RAN}, CI)[0] == 0


def test_nobody_but_ci_is_told_off(tmp_path: Path) -> None:
    assert run(tmp_path, FILES, {})[0] == 0
