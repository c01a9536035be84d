"""One data directory, one running node."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.node.folder import LOCK_FILE, hold_folder


def test_a_folder_is_made_and_held_until_it_is_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with closing(hold_folder(folder, "kitchen")):
        words = rf"another node \(kitchen, process {os.getpid()}\) runs with the data directory {folder} already: "
        with pytest.raises(SetupError, match=words + ".*--data-dir OTHER and --port N"):
            hold_folder(folder, "study")
        with pytest.raises(SetupError, match="kitchen"):  # the one refused left the words as they were
            hold_folder(folder, None)
    hold_folder(folder, "study").close()


@pytest.mark.parametrize("left_behind", [b"", b"rubbish\xff\x00 at length " * 100, b"123"])
def test_what_lies_in_the_file_matters_only_to_the_words(tmp_path: Path, left_behind: bytes) -> None:
    with closing(hold_folder(tmp_path, "kitchen")):
        (tmp_path / LOCK_FILE).write_bytes(left_behind)
        with pytest.raises(SetupError, match=r"^another node runs with"):
            hold_folder(tmp_path, "study")
    hold_folder(tmp_path, "study").close()
    assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()} study"


def test_a_folder_that_cannot_be_made_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot write .*node\.lock.*--data-dir"):
        hold_folder(tmp_path / "file", "kitchen")
