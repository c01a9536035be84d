"""Whatever file operation fails, or is the last before a process is killed: a node never trusts more than it was told.

The generator fails the k-th operation on files below the data directory, for every k there is, once or from then on, or
kills the process there, and then starts the node again from what is on disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from federation.errors import RosterError, RosterNotKept
from federation.roster import Roster
from federation.roster_store import MARK_FILE, ROSTER_FILE, load_roster, save_roster
from federation.small_files import TEMPORARY_SUFFIX, remove_temporaries, write_atomically
from federation.tasks import cancel_and_wait
from federation.trust import Trust
from swarm.commands.members import revoke
from swarm.errors import SetupError, SwarmError
from swarm.node.folder import folder_at_rest, hold_folder
from swarm.node.pairing import revoke_at_rest
from tests.doubles.paired import identity, open_trust, paired_trusts, roster_of
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode

How = Literal["once", "from then on", "killed"]
HOWS: tuple[How, ...] = ("once", "from then on", "killed")
OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "close")
MAX_OPERATIONS = 200  # of one change; a real one has under thirty


class Killed(BaseException):
    """The process ended here: nothing after this reaches the disk."""


@contextmanager
def failing(folder: Path, at: int, how: How, error: int = errno.ENOSPC) -> Generator[list[str]]:
    """The operation number `at` (from 0) on files below `folder` fails; the names of those that were tried."""
    tried: list[str] = []

    def is_below(target: Any) -> bool:
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else os.fspath(target)
        return str(path).startswith(str(folder))

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(target: Any, *rest: Any, **named: Any) -> Any:
            try:
                if not is_below(target):
                    return real(target, *rest, **named)
            except OSError:
                return real(target, *rest, **named)
            tried.append(name)
            number = len(tried) - 1
            fails = number == at if how == "once" else number >= at
            if name == "close":  # a descriptor is free whatever close says; and what is killed closes all
                real(target)
                if not fails or how == "killed":
                    return None
                raise OSError(error, os.strerror(error))
            if not fails:
                return real(target, *rest, **named)
            if how == "killed":
                raise Killed
            if name == "write" and number == at:
                real(target, bytes(rest[0])[: len(rest[0]) // 2])  # a disk takes half of it before it is full
            raise OSError(error, os.strerror(error))

        return operation

    with pytest.MonkeyPatch.context() as patched:
        for name in OPERATIONS:
            patched.setattr(os, name, wrapped(name, getattr(os, name)))
        yield tried


Everybody = Literal["everybody"]
Trusted = frozenset[str] | Everybody


def trusted_by(roster: Roster | None) -> Trusted:
    return "everybody" if roster is None else frozenset(entry.id for entry in roster.members)


def is_within(one: Trusted, other: Trusted) -> bool:
    """Whether `one` lets in nobody whom `other` does not."""
    return other == "everybody" or (one != "everybody" and one <= other)


def trusted_after_a_restart(data_dir: Path) -> Trusted:
    """Nobody where the node refuses to start."""
    try:
        return trusted_by(load_roster(data_dir))
    except RosterError:
        return frozenset()


@dataclass(frozen=True)
class Case:
    """A change of `kitchen`: what it is before, and what is done."""

    name: str
    is_paired: bool
    change: Callable[[Trust, Path], Awaitable[object]]
    holds_at_once: bool = False


async def admit(trust: Trust, folder: Path) -> None:
    newcomer = identity(folder, "attic")
    await trust.admit(newcomer.certificate, newcomer.name, ())


async def adopt(trust: Trust, folder: Path) -> None:
    await trust.adopt(roster_of(folder, "study", "kitchen"))


async def revoke_study(trust: Trust, folder: Path) -> None:
    await trust.revoke(identity(folder, "study").node_id)


async def learn_of_a_revocation(trust: Trust, folder: Path) -> None:
    assert trust.roster is not None
    study, cellar = (identity(folder, name).node_id for name in ("study", "cellar"))
    await trust.merge_reported(trust.roster.revoke(cellar, "study"), study)


CASES = (
    Case("found", False, lambda trust, _: trust.found(())),
    Case("adopt", False, adopt),
    Case("admit", True, admit),
    Case("leave", True, lambda trust, _: trust.leave()),
    Case("revoke", True, revoke_study, holds_at_once=True),
    Case("learn", True, learn_of_a_revocation, holds_at_once=True),
)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_failure_of_any_operation_lets_anybody_in(tmp_path: Path, case: Case, how: How) -> None:
    for number in range(MAX_OPERATIONS):
        folder = tmp_path / str(number)
        for name in ("study", "attic", "cellar"):
            identity(folder, name)
        trust = (
            paired_trusts(folder, "kitchen", "study", "cellar")[0] if case.is_paired else open_trust(folder, "kitchen")
        )
        data_dir = folder / "kitchen"
        before, roster_before = trusted_by(trust.roster), trust.roster
        told: BaseException | None = None
        with failing(data_dir, number, how) as tried:
            try:
                await case.change(trust, folder)
            except (RosterError, Killed) as error:
                told = error
        here, there = trusted_by(trust.roster), trusted_after_a_restart(data_dir)
        after = f"operation {number} of {tried} failed {how}: {told}"
        if told is None:
            assert here == there, after
            assert here != before, after
        elif isinstance(told, Killed):
            pass  # nobody was told anything: the old list or the new
        elif isinstance(told, RosterNotKept):
            assert case.holds_at_once, after
            assert here < before, after
            assert is_within(there, before), after
            assert "holds only until this node stops" in str(told), after
        else:
            assert trust.roster is roster_before, after
            assert is_within(there, here) or "may be there all the same" in str(told), after
            if how == "once":
                assert there == before, after
        if isinstance(told, Killed):
            asked_for = trusted_by(None) if case.name == "leave" else before
            if case.name != "admit":  # which lets somebody in, as it was asked to
                assert is_within(there, asked_for), after
        remove_temporaries(data_dir)
        assert {path.name for path in data_dir.iterdir()} <= {"node.pem", ROSTER_FILE, MARK_FILE}, after
        if number >= len(tried):
            assert told is None
            assert number >= 4, "the generator found nothing to fail"
            return
    pytest.fail(f"more than {MAX_OPERATIONS} operations")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
async def test_an_invitation_that_cannot_be_kept_fails_aloud_and_changes_nothing(
    tmp_path: Path, make_node: MakeNode, error: int
) -> None:
    async with make_node("kitchen") as kitchen:
        data_dir = tmp_path / "kitchen"
        with (
            failing(data_dir, 0, "from then on", error),
            pytest.raises(SwarmError, match=rf"cannot write .*roster\.json \({os.strerror(error)}\)") as caught,
        ):
            await kitchen.trust_service.invite()
        assert not isinstance(caught.value, SetupError), "exit code 1"
        assert kitchen.trust.mode == "open"
        assert load_roster(data_dir) is None
        await eventually(lambda: not kitchen.trust_service.takes_joiners)
        assert (await kitchen.trust_service.invite()).was_open, "and it works once there is room"
        assert load_roster(data_dir) is not None


async def test_a_revocation_that_cannot_be_kept_holds_is_told_and_is_kept_later(
    tmp_path: Path, make_node: MakeNode
) -> None:
    trusts = paired_trusts(tmp_path, "kitchen", "study")
    async with make_node("kitchen", trusts[0]) as kitchen:
        with (
            failing(tmp_path / "kitchen", 0, "from then on"),
            pytest.raises(
                SwarmError, match=r"study is revoked here, and nobody else .*holds only until this node stops"
            ),
        ):
            await kitchen.trust_service.revoke("study")
        assert not kitchen.trust.is_member(trusts[1].node_id)
        await kitchen.trust.keep()
        kept = load_roster(tmp_path / "kitchen")
        assert kept is not None
        assert trusts[1].node_id not in trusted_by(kept)


def test_at_rest_a_revocation_that_cannot_be_kept_changes_nothing_and_says_so(tmp_path: Path) -> None:
    paired_trusts(tmp_path, "kitchen", "study")
    with failing(tmp_path / "kitchen", 0, "from then on"), pytest.raises(SwarmError, match=r"nothing has changed$"):
        revoke_at_rest(tmp_path / "kitchen", "study")
    assert len(open_trust(tmp_path, "kitchen").others) == 1


def test_what_a_node_holds_is_not_changed_behind_its_back(tmp_path: Path) -> None:
    """A node that starts has read its list, and would write it over what a command puts there."""
    paired_trusts(tmp_path, "kitchen", "study")
    with hold_folder(tmp_path / "kitchen", "kitchen"), pytest.raises(SetupError, match="starts, stops or hangs"):
        revoke(tmp_path / "kitchen", "study", yes=True, json=False)
    assert len(open_trust(tmp_path, "kitchen").others) == 1
    with folder_at_rest(tmp_path / "nowhere"):
        assert not (tmp_path / "nowhere").exists()


async def test_whoever_asks_may_leave_while_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at `swarm invite`: what is on disk is what the node holds."""
    import threading

    from federation import trust as trust_module

    began, go_on = asyncio.Event(), threading.Event()
    loop, real = asyncio.get_running_loop(), save_roster

    def slowly(data_dir: Path, roster: Roster | None) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(10)
        real(data_dir, roster)

    monkeypatch.setattr(trust_module, "save_roster", slowly)
    trust = open_trust(tmp_path, "kitchen")
    asking = asyncio.create_task(trust.found(()))
    await began.wait()
    await cancel_and_wait(asking)
    go_on.set()
    await trust.found(())  # waits for its turn
    assert (trust.mode, load_roster(tmp_path / "kitchen")) == ("paired", trust.roster)


@pytest.mark.parametrize("left", [b"", b"{", b'{"swarm": "0000', b"\x00" * 4096])
def test_a_list_that_is_cut_short_is_no_open_node(tmp_path: Path, left: bytes) -> None:
    paired_trusts(tmp_path, "kitchen", "study")
    (tmp_path / "kitchen" / ROSTER_FILE).write_bytes(left)
    with pytest.raises(RosterError, match="restore it from a backup"):
        load_roster(tmp_path / "kitchen")


def test_a_list_that_is_gone_is_no_open_node(tmp_path: Path) -> None:
    paired_trusts(tmp_path, "kitchen", "study")
    (tmp_path / "kitchen" / ROSTER_FILE).unlink()
    with pytest.raises(RosterError, match=r"is gone: restore it from a backup.*open to everybody.*delete .*paired"):
        load_roster(tmp_path / "kitchen")
    (tmp_path / "kitchen" / MARK_FILE).unlink()
    assert load_roster(tmp_path / "kitchen") is None, "as the words say"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_on_a_disk_that_is_really_full_nothing_changes(tiny_disk: Path) -> None:
    trust = open_trust(tiny_disk, "kitchen")
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(b"x" * 2**20)
    with pytest.raises(RosterError, match="No space left on device"):
        await trust.found(())
    assert (trust.mode, load_roster(tiny_disk / "kitchen")) == ("open", None)
    assert [path.name for path in (tiny_disk / "kitchen").iterdir()] == ["node.pem"]
    ballast.unlink()
    await trust.found(())
    assert load_roster(tiny_disk / "kitchen") is not None


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from federation.small_files import write_atomically
path = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for name in ("peers.json", "roster.json", "control.json"):
        write_atomically(path / name, b"x" * 100_000)
"""


def test_what_kill_9_leaves_is_removed_at_the_next_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    for _ in range(200):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, data_dir], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        while not any(path.name.endswith(TEMPORARY_SUFFIX) for path in data_dir.iterdir()):
            pass
        writer.kill()
        writer.communicate()
        if any(path.name.endswith(TEMPORARY_SUFFIX) for path in data_dir.iterdir()):
            break
    else:
        pytest.fail("never killed while it wrote")
    for name in (".peers.json.abcd1234", ".roster.json.zz_zz_99"):  # of earlier versions
        (data_dir / name).write_bytes(b"x")
    ours = {"peers.json", "roster.json", "control.json", "node.lock"}
    others = {".peers.json.bak", ".peers.json.ABCD1234", "notes.swarm-tmp", ".models.abcd1234", ".x.swarm-tmp"}
    for name in others:
        (data_dir / name).write_bytes(b"x")
    folder = data_dir / f".folder.abcd1234{TEMPORARY_SUFFIX}"
    folder.mkdir()
    link = data_dir / f".link.abcd1234{TEMPORARY_SUFFIX}"
    link.symlink_to(data_dir / "peers.json")
    hold_folder(data_dir, "kitchen").close()
    assert {path.name for path in data_dir.iterdir()} - ours == others | {folder.name, link.name}


def test_what_somebody_still_writes_beside_models_is_spared(tmp_path: Path) -> None:
    from swarm.node.files import TEMPORARY_LIFE_S, remove_old_temporaries

    model_dir, partial = tmp_path / "owner--repo" / "sub", tmp_path / ".partial" / "owner--repo"
    for folder in (model_dir, partial):
        folder.mkdir(parents=True)
    old, young = (model_dir / f".m.gguf.hashes.abcd123{n}{TEMPORARY_SUFFIX}" for n in range(2))
    pieces = partial / f".m.gguf.abcd1234{TEMPORARY_SUFFIX}"
    for path in (old, young, pieces):
        path.touch()
    for path in (old, pieces):
        os.utime(path, (0, path.stat().st_mtime - 2 * TEMPORARY_LIFE_S))
    remove_old_temporaries(tmp_path)
    assert (old.exists(), young.exists(), pieces.exists()) == (False, True, True)


def test_secrets_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    was = os.umask(0)
    try:
        data_dir = tmp_path / "new" / "data"
        hold_folder(data_dir, "kitchen").close()
        save_roster(data_dir, roster_of(tmp_path, "kitchen"))
        write_atomically(tmp_path / "made" / "control.json", b"{}")
    finally:
        os.umask(was)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (*data_dir.iterdir(), tmp_path / "made" / "control.json")
    }
    assert set(modes.values()) == {0o600}, modes
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (data_dir, tmp_path / "made")} == {0o700}
