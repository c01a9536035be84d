"""Names and files that cannot be loaded: the node and its command line say why and what to do, and lose nothing."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import numpy as np
import pytest
from gguf import GGUFWriter

from swarm.cli import main
from tests.doubles.clients import connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.model_homes import VARIABLES, into_ollama
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.tiny_models import write_named_model
from tests.doubles.waiting import eventually
from tests.e2e.asking import ask
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually as seen

TOLD_S = 10.0

SENTENCES = [  # a name on the command line, what is wrong with it, and what to do
    ("tale", "'tale' may be tale-a or tale-b", "give one of them"),
    (
        "tuned",
        "tuned.gguf is an adapter (LoRA) for a model of architecture llama",
        "give that model, or one into which",
    ),
    ("mmproj-eyes", "mmproj-eyes.gguf is the image part of a vision model", "give the model itself"),
    ("empty", "empty.gguf: it has 0 bytes", "download it again"),
    ("torn", "torn.gguf: it is cut short", "download it again"),
    ("loop", "cannot follow the link", "remove it, or let it lead to a file"),
    ("gone", "nowhere.gguf, which does not exist", "bring the file back, or remove the link"),
    ("lost:1b", "Ollama's lost:1b", "`ollama pull lost:1b` brings it again"),
    ("tale-c", "no model is called 'tale-c'", "did you mean tale-b or tale-a"),
    ("DISK/tuned.gguf", "is an adapter (LoRA)", "beside it: DISK/tale-a.gguf"),
    ("DISK/loop.gguf", "Too many levels of symbolic links", "let the link lead to a file"),
    ("DISK/empty.gguf", "it has 0 bytes", "download it again"),
    ("DISK/absent.gguf", "absent.gguf does not exist", "`swarm models list`"),
    ("DISK", "is a folder", "give a file in it, DISK/tale-a.gguf or DISK/tale-b.gguf"),
]


def write_part(path: Path, architecture: str, kind: str | None = None) -> None:
    """A GGUF file that is whole, and no model of its own."""
    writer = GGUFWriter(path, architecture)
    writer.add_name("part")
    if kind is not None:
        writer.add_type(kind)
    writer.add_tensor("weights", np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models in which nearly everything is wrong; Ollama, in the home beside it, lost a model's file."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    home, disk = tmp_path / "kitchen", tmp_path / "disk"
    monkeypatch.setenv("HOME", str(home))
    disk.mkdir()
    for name in ("tale-a", "tale-b"):
        write_named_model(disk / f"{name}.gguf")
    write_part(disk / "tuned.gguf", "llama", "adapter")
    write_part(disk / "mmproj-eyes.gguf", "clip")
    (disk / "empty.gguf").touch()
    (disk / "torn.gguf").write_bytes((disk / "tale-a.gguf").read_bytes()[:100_000])
    (disk / "loop.gguf").symlink_to(disk / "loop.gguf")
    (disk / "gone.gguf").symlink_to(disk / "nowhere.gguf")
    (disk / "round").symlink_to(disk)
    into_ollama(home, disk / "tale-a.gguf", "lost:1b").unlink()
    return disk


def content(disk: Path) -> dict[str, object]:
    """What lies there."""
    return {path.name: path.readlink() if path.is_symlink() else path.read_bytes() for path in disk.iterdir()}


def test_the_command_line_says_what_is_wrong_with_a_model_and_what_to_do(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(disk)
    where = ("--data-dir", str(tmp_path / "data"), "--models-dir", str(disk), "--port", "0")
    for name, wrong, remedy in SENTENCES:
        assert main(["--model", name.replace("DISK", str(disk)), *where]) == 2
        said = capsys.readouterr().err
        for words in (wrong, remedy):
            assert words.replace("DISK", str(disk)) in said, f"{name}: {said}"
        assert "Traceback" not in said
    assert content(disk) == before
    assert main(["models", "list", "--data-dir", str(tmp_path / "data"), "--models-dir", str(disk)]) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == ["tale-a", "tale-b"]
    for name, wrong, _ in SENTENCES[1:8]:
        assert said.err.count(wrong) == 1, f"{name} is named once: {said.err}"


async def test_a_node_says_what_is_wrong_with_a_model_and_goes_on(disk: Path, tmp_path: Path) -> None:
    arguments = ("--models-dir", str(disk), "--models-dir", str(tmp_path / "missing"))
    with NodeProcess("kitchen", tmp_path / "kitchen", arguments=arguments) as node:
        await node.ready()

        async def named() -> int:
            return node.errors.count("not used: ")

        await seen(named, TOLD_S, "what cannot be used is named", until=(8).__eq__)
        assert node.errors.count(f"--models-dir {tmp_path}/missing does not exist: give the folder") == 1
        async with aiohttp.ClientSession() as session:
            for name in ("tuned", "mmproj-eyes", "empty", "torn", "loop", "gone", "lost:1b", "tale", "tale-c"):
                for path in ("chat/completions", "models/load"):
                    body = {
                        "model": name,
                        **({"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {}),
                    }
                    async with session.post(f"{node.url}/v1/{path}", json=body) as response:
                        said, status = (await response.json())["error"]["message"], response.status
                    match name:
                        case "tale":
                            assert (status, "tale-a or tale-b: give one of them" in said) == (400, True), said
                        case "tale-c":
                            assert (status, "available: demo, tale-a, tale-b" in said) == (404, True), said
                        case _:
                            assert (status, "cannot be used: `swarm models list` there says why" in said) == (
                                404,
                                True,
                            ), said
                    assert str(disk) not in said, "where files lie is told on this machine only"
        for name in ("demo", "tale-a"):
            assert "Paris" in (await ask(node, model=name, strategy="single")).text
        assert node.errors.count("not used: ") == 8
        assert "Traceback" not in node.errors


@pytest.mark.parametrize("asked_has_it", [True, False])
async def test_a_model_that_fits_nowhere_is_refused_with_the_numbers_of_the_nearest_node(asked_has_it: bool) -> None:
    near, asked = Machine(total=800), Machine(total=500)
    near.add("large", 900)
    if asked_has_it:
        asked.add("large", 900)

    def options(machine: Machine, *peers: RunningNode) -> NodeOptions:
        addresses = [peer.address for peer in peers]
        return NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK, peers=addresses)

    async with (
        RunningNode("near", options=options(near)) as there,
        RunningNode("asked", options=options(asked, there)) as here,
        connect(here.url) as client,
    ):
        await eventually(lambda: bool(here.membership.alive()[0].loadable))
        for _ in range(2):
            reply = await client.chat("hello", model="large")
            assert reply.status == 503
            assert "near: large needs 900 MiB of RAM and at most 800 MiB could be free" in reply.error["message"]
    assert (near.loads, asked.loads) == ([], [])
