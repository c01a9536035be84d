"""scripts/compatibility: what a test found is what its cell says, and nothing else can be called run.

Results come from real runs of pytest over small files of tests, which say that they are of clients of ours.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm.commands.client_settings import CELLS, ClientEntry, client_entries
from tests.doubles.client_results import CLAIMS, RESULTS, pinned_version

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "compatibility"
TESTS = """
import pytest

client = pytest.mark.client

@client("codex", "text", "stream")
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_text(way): pass

@client("codex", "stream")
def test_a_stream(): assert False

@client("codex", "tools")
def test_a_tool(): pass

@client("codex", "tools")
@pytest.mark.xfail(strict=True)
def test_another_tool(): assert False

@client("codex", "structured")
def test_an_object(): pass

@client("codex", "structured")
def test_another_object(): pytest.skip("the program is too old")

@pytest.fixture
def broken(): raise ValueError

@client("codex", "cancel")
def test_leaving(broken): pass

@pytest.fixture
def torn():
    yield
    raise ValueError

@client("openai-python", "text")
def test_a_text_whose_fixture_breaks_afterwards(torn): pass

@client("aider", "text")
def test_of_what_is_not_here(): pytest.skip("no aider")
"""


LATE_ONCE = """
import pathlib
import pytest

@pytest.mark.client("codex", "text")
def test_which_passes(): pass

@pytest.mark.client("codex", "text")
def test_which_is_late_once():
    been = pathlib.Path(__file__).with_name("been")
    first = not been.exists()
    been.touch()
    assert not first
"""


def load_script() -> ModuleType:
    """The script, which has no ending, as a module."""
    loader = importlib.machinery.SourceFileLoader("compatibility", str(SCRIPT))
    specification = importlib.util.spec_from_loader(loader.name, loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[loader.name] = module  # where dataclasses look for it
    loader.exec_module(module)
    return module


compatibility = load_script()
BY_ID = {entry.id: entry for entry in client_entries()}
CODEX = replace(BY_ID["codex"], lacks={})


def run_tests(folder: Path, text: str, variable: str, *options: str) -> dict[str, Any]:
    """What pytest writes into the file that `variable` names, of a file of tests of its own."""
    (folder / "test_clients.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = client: a\n")
    told = folder / f"{variable}.json"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI", "SWARM"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.doubles.client_results", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, *options, "-c", str(folder / "pytest.ini"), "--rootdir", str(folder), str(folder)],
        cwd=ROOT,
        env={**clean, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", variable: str(told)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.exists(), ended.stdout + ended.stderr
    return json.loads(told.read_text())


def test_what_failed_is_run_again_beside_what_was_found_of_the_others(tmp_path: Path) -> None:
    cached = ("-p", "cacheprovider")
    first = run_tests(tmp_path, LATE_ONCE, RESULTS, *cached)["codex"]["cells"]["text"]
    assert sorted(first.values()) == ["failed", "passed"]
    again = run_tests(tmp_path, LATE_ONCE, RESULTS, *cached, "--last-failed")["codex"]["cells"]["text"]
    assert again == dict.fromkeys(first, "passed")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_tests(tmp_path_factory.mktemp("found"), TESTS, RESULTS)


@pytest.mark.parametrize(
    ("client", "cell", "state"),
    [
        ("codex", "text", "run"),
        ("codex", "stream", "failed"),
        ("codex", "tools", "xfailed"),
        ("codex", "structured", "skipped"),
        ("codex", "cancel", "failed"),
        ("codex", "errors", "missing"),
        ("openai-python", "text", "failed"),
        ("aider", "text", "missing"),
    ],
)
def test_only_where_every_test_passed_it_is_run(found: dict[str, Any], client: str, cell: str, state: str) -> None:
    entry = replace(BY_ID[client], lacks={})
    assert compatibility.cell_of(entry, found, cell).state == state
    called_run = f"[run](clients/{client}.md#what-was-run)"
    column = compatibility.table_row(entry, found).split(" | ")[1 + CELLS.index(cell)]
    assert (column == called_run) is (state == "run")
    line = next((row for row in compatibility.page(entry, found).splitlines() if row.startswith(f"| {cell} |")), "")
    assert ("| run |" in line) is (state == "run")


def test_several_workers_find_the_same(tmp_path: Path, found: dict[str, Any]) -> None:
    several = run_tests(tmp_path, TESTS, RESULTS, "-p", "xdist", "-n", "2")
    assert {client: result["cells"] for client, result in several.items()} == {
        client: result["cells"] for client, result in found.items()
    }


def test_the_version_is_that_which_the_tests_install(found: dict[str, Any]) -> None:
    package = BY_ID["openai-python"].packages[0]
    assert found["openai-python"]["versions"] == {package: pinned_version(package)}
    assert compatibility.version_of(BY_ID["openai-python"], found) == pinned_version(package)


def test_a_failure_is_named_on_its_page_and_counted_in_the_table(found: dict[str, Any]) -> None:
    page = compatibility.page(CODEX, found)
    assert "`test_a_stream: failed`" in page
    assert "`test_another_object: skipped`" in page
    assert "`test_another_tool: xfailed`" in page
    assert "1 run, 0 that a client cannot have, **5 neither**" in compatibility.table([CODEX], found)


def test_a_reason_counts_only_where_no_test_says_otherwise(found: dict[str, Any]) -> None:
    reason = "Codex gives up: it has an | in it, and so on, for longer than any cell of a table may be"
    lacking = replace(CODEX, lacks=dict.fromkeys(("errors", "stream"), reason))
    assert compatibility.cell_of(lacking, found, "errors").state == "lacking"
    assert compatibility.cell_of(lacking, found, "stream").state == "failed"
    assert "| no: [Codex gives up](clients/codex.md#what-it-cannot-do) |" in compatibility.table_row(lacking, found)
    assert f"* **errors**: {reason}" in compatibility.page(lacking, found)
    assert len(compatibility.short("a reason " * 20)) <= compatibility.MOST_REASON_CHARS


def claims_gone(results: Mapping[str, Any], claims: Mapping[str, list[list[str | None]]]) -> list[str]:
    """Every outcome of a test that is not there any more, or does not say that it is of that client and cell."""
    said = {(test, client, cell) for test, marks in claims.items() for client, cell, _ in marks}
    return [
        f"{client}: {cell}: {test}"
        for client, result in results.items()
        for cell, tests in result["cells"].items()
        for test in tests
        if (test, client, cell) not in said
    ]


def test_a_marker_that_is_taken_away_is_missed(tmp_path: Path, found: dict[str, Any]) -> None:
    assert claims_gone(found, run_tests(tmp_path, TESTS, CLAIMS, "--collect-only")) == []
    less = TESTS.replace('@client("codex", "text", "stream")', '@client("codex", "stream")')
    gone = claims_gone(found, run_tests(tmp_path, less, CLAIMS, "--collect-only"))
    assert gone == [f"codex: text: test_clients.py::test_a_text[{way}]" for way in ("streamed", "whole")]


def test_another_run_that_found_less_is_told_by_cell(found: dict[str, Any], tmp_path: Path) -> None:
    def without(change: Callable[[dict[str, Any]], None]) -> list[str]:
        seen = json.loads(json.dumps(found))
        change(seen)
        return compatibility.not_held([CODEX], found, seen)

    assert without(lambda _: None) == []
    assert without(lambda seen: seen["codex"]["cells"]["text"].update(other="failed")) == [
        "codex: text is called run, and here it was: failed (other failed)"
    ]
    assert without(lambda seen: seen.pop("codex")) == ["codex: text is called run, and here it was: not run"]
    assert compatibility.main(["--held-by", str(tmp_path / "none.json")]) == 1


def test_stale_pages_are_named(tmp_path: Path, found: dict[str, Any]) -> None:
    document = f"# What works\n\n{compatibility.BEGIN}\nold\n{compatibility.END}\n\nby hand\n"
    made = compatibility.made_files([CODEX], found, document)
    assert set(map(str, made)) == {"docs/compatibility.md", "docs/clients/README.md", "docs/clients/codex.md"}
    assert compatibility.stale(tmp_path, made) == sorted(map(str, made))
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert compatibility.stale(tmp_path, made) == []
    assert made[Path("docs/compatibility.md")].endswith("\n\nby hand\n")
    assert compatibility.made_files([CODEX], found, made[Path("docs/compatibility.md")]) == made
    (tmp_path / "docs/clients/codex.md").write_text(made[Path("docs/clients/codex.md")].replace("**failed**", "run"))
    (tmp_path / "docs/clients/gone.md").write_text("of a client that is no more")
    assert compatibility.stale(tmp_path, made) == ["docs/clients/codex.md", "docs/clients/gone.md"]
    with pytest.raises(ValueError, match="needs one line"):
        compatibility.with_table("# without the comments\n", "")


def test_every_client_gets_a_page_with_its_settings() -> None:
    entries: list[ClientEntry] = list(BY_ID.values())
    made = compatibility.made_files(entries, {}, f"{compatibility.BEGIN}\n{compatibility.END}\n")
    for entry in entries:
        page = made[Path("docs/clients") / f"{entry.id}.md"]
        assert "http://HOST:17615" in page
        assert f"`swarm launch --settings {entry.id}`" in page
        assert f"({entry.id}.md)" in made[Path("docs/clients/README.md")]


# What is committed: docs/clients/results.json, and the pages that are made from it.

COMMITTED: dict[str, Any] = compatibility.read_results(ROOT / compatibility.RESULTS)
FEWEST_CLIENTS = 25


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str | None]]]:
    """What every test that is named in the results says now, as pytest collects it; of a file that is gone nothing."""
    tests = {test for result in COMMITTED.values() for cell in result["cells"].values() for test in cell}
    files = [file for file in sorted({test.partition("::")[0] for test in tests}) if (ROOT / file).exists()]
    told = tmp_path_factory.mktemp("claims") / "claims.json"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SWARM"))}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**clean, CLAIMS: str(told)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(told.read_text())


def test_the_pages_are_what_the_script_makes_of_the_results() -> None:
    document = (ROOT / compatibility.COMPATIBILITY).read_text(encoding="utf-8")
    made = compatibility.made_files(client_entries(), COMMITTED, document)
    assert compatibility.stale(ROOT, made) == [], "run scripts/compatibility"


def test_every_test_that_is_counted_is_there_and_says_so_itself(claims: dict[str, list[list[str | None]]]) -> None:
    assert claims_gone(COMMITTED, claims) == []


def test_what_ran_is_what_is_pinned_today(claims: dict[str, list[list[str | None]]]) -> None:
    """A client that was raised is to be run anew, so that its page does not speak of another version."""
    folders = {client: folder for marks in claims.values() for client, _, folder in marks}
    pinned = {
        client: {package: pinned_version(package, folders.get(str(client))) for package in BY_ID[client].packages}
        for client in COMMITTED
    }
    assert {client: result["versions"] for client, result in COMMITTED.items()} == pinned


@pytest.mark.parametrize("entry", BY_ID.values(), ids=lambda entry: entry.id)
def test_every_cell_is_run_or_has_a_reason_and_not_both(entry: ClientEntry) -> None:
    cells = {cell: compatibility.cell_of(entry, COMMITTED, cell) for cell in CELLS}
    assert {cell: found.state for cell, found in cells.items() if found.state not in ("run", "lacking")} == {}
    both = [cell for cell, found in cells.items() if found.outcomes and found.reason]
    assert both == [], "its tests show what clients.toml says that it lacks"


def test_there_are_clients_enough() -> None:
    assert len(BY_ID) >= FEWEST_CLIENTS
    assert COMMITTED.keys() <= BY_ID.keys()
