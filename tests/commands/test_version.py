"""`swarm --version`: the version, and in a checkout its commit, which is never another project's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from swarm import VERSION, checked_out
from swarm.cli import main

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
OURS = '[project]\nname = "local-swarm"\n'

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(OURS)
    committed(folder)
    return folder


def committed(folder: Path) -> None:
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, "-C", str(folder), *words], check=True)


def head(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_has_its_commit(checkout: Path) -> None:
    commit = checked_out(checkout)
    assert commit is not None
    assert len(commit) >= 10
    assert head(checkout).startswith(commit)
    (checkout / "pyproject.toml").write_text(f"{OURS}# changed\n")
    assert checked_out(checkout) == f"{commit}, changed"


def test_a_worktree_and_a_tag_are_no_other_commit(checkout: Path, tmp_path: Path) -> None:
    subprocess.run([*GIT, "-C", str(checkout), "tag", "-am", "a tag", "v9"], check=True)
    subprocess.run([*GIT, "-C", str(checkout), "worktree", "add", "-q", str(tmp_path / "other")], check=True)
    assert checked_out(tmp_path / "other") == checked_out(checkout) == head(checkout)[:10]


def test_what_git_s_variables_point_to_is_not_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook of another repository."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("theirs")
    committed(theirs)
    ours = checked_out(checkout)
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(theirs))
    assert checked_out(checkout) == ours


def test_another_project_s_commit_is_not_taken(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = checkout / "vendored"
    below.mkdir()
    (below / "pyproject.toml").write_text(OURS)
    assert checked_out(below) is None, "a copy in a folder of another repository"
    (checkout / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    assert checked_out(checkout) is None, "installed with --target into another project's checkout"
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text(OURS)
    assert checked_out(tmp_path) is None, "no repository after all"
    (checkout / "pyproject.toml").write_text(OURS)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checked_out(checkout) is None, "without git"


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"local-swarm {VERSION}")
