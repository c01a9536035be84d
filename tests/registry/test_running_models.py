"""`swarm models list`, `load`, `unload`, `pin` and `rm` with a node that runs, whatever it answers."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import main
from swarm.commands.node_client import NodeApi
from swarm.commands.running_models import LoadShown
from swarm.control_messages import KnownNodes
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode

KITCHEN = {"name": "kitchen"}
LISTED = [
    {"id": "swarm", "object": "model", "state": "ready", "nodes": ["attic", "kitchen"]},
    {"id": "tiny-q8_0", "state": "ready", "nodes": ["kitchen"], "context_tokens": 2048, "pinned": True},
    {"id": "qwen3:8b:q4_k_m", "state": "available", "nodes": ["attic", "kitchen"], "size_bytes": 5 << 30},
    {"id": "gemma3:4b", "state": "draining", "nodes": ["attic", "cellar"], "aliases": ["gpt-4o-mini"],
     "pooled": {"attic": ["attic", "den"], "cellar": ["cellar", "den"]},
     "states": {"attic": "draining", "cellar": "available"}},
    {"id": "llama3.2:3b", "state": "loading", "nodes": ["attic"], "loading": {"share": 0.62, "left_s": 3.2}},
]  # fmt: skip


@dataclass
class Told:
    """What a node is asked, and what it answers to each path: a status and an object."""

    asked: list[tuple[str, dict[str, Any] | None, str | None]] = field(default_factory=list)
    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    url: str = ""

    def bodies(self, path: str) -> list[dict[str, Any] | None]:
        return [body for asked, body, _ in self.asked if asked == path]


@contextmanager
def answering(told: Told) -> Generator[Told]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            told.asked.append((self.path, json.loads(raw) if raw else None, self.headers.get("Authorization")))
            status, answer = told.answers.get(self.path, (404, {"error": {"message": f"no {self.path}"}}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = answer  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Generator[Told]:
    """The node that runs with the data directory."""
    listing = {"object": "list", "data": LISTED}
    own = [{"id": "tiny-q8_0", "state": "ready"}, {"id": "my model (v2)", "state": "failed"}]
    told = Told(
        answers={"/v1/models": (200, listing), "/v1/federation/health": (200, {"node": KITCHEN, "own_models": own})}
    )
    with answering(told):
        known = KnownNodes(mode="open", swarm=None, id="a" * 32, name="kitchen", running=True, api=told.url)
        monkeypatch.setattr("swarm.commands.running_models.ask_running", lambda *_: known)
        yield told


@pytest.fixture
def data_dir(tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models, of which two have other names; no others on this machine."""
    for variable in ("HF_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    monkeypatch.delenv("SWARM_API_KEY", raising=False)
    models = tmp_path / "data" / "models"
    content = demo_model.read_bytes()
    for number, name in enumerate(("tiny-q8_0", "My Model (v2)", "unsloth--Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M")):
        path = models / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:-8] + number.to_bytes(8, "little"))  # the same header, and other weights
    return tmp_path / "data"


def swarm(*words: str, data_dir: Path) -> int:
    return main(["models", *words, "--data-dir", str(data_dir)])


def rows(data_dir: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    assert swarm("list", "--json", *words, data_dir=data_dir) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_the_list_is_of_the_swarm_and_of_this_disk(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(data_dir, capsys)
    assert list(found) == ["tiny-q8_0", "llama3.2:3b", "gemma3:4b", "my model (v2)", "qwen3:8b:q4_k_m"]
    assert [row["state"] for row in found.values()] == ["ready", "loading", "draining", "available", "available"]
    tiny = found["tiny-q8_0"]
    assert (tiny["nodes"], tiny["pinned"], tiny["source"], tiny["context_tokens"]) == (["kitchen"], True, "own", 2048)
    assert Path(tiny["path"]).name == "tiny-q8_0.gguf"
    away = found["llama3.2:3b"]
    assert (away["nodes"], away["path"], away["source"]) == (["attic"], None, None)
    assert found["qwen3:8b:q4_k_m"]["size_bytes"] < 5 << 30, "what is here was measured"
    everything = rows(data_dir, capsys, "--all")
    assert list(everything)[:4] == ["tiny-q8_0", "llama3.2:3b", "gemma3:4b", "demo"], "the embedded ones, too"
    assert everything["qwen3:4b:q4_k_m"]["state"] is None
    assert swarm("list", data_dir=data_dir) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "NODE"]
    assert lines[1].split()[:4] == ["tiny-q8_0", "ready,", "pinned", "kitchen"]
    assert " ".join(lines[3].split()).startswith("gemma3:4b draining attic + den, cellar + den (available)")


def test_without_a_node_the_list_is_of_this_disk(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rows(data_dir, capsys)
    assert set(found) == {"tiny-q8_0", "my model (v2)", "qwen3:8b:q4_k_m"}
    assert {row["state"] for row in found.values()} == {"available"}
    assert not any(row["nodes"] for row in found.values())
    monkeypatch.setattr("swarm.commands.running_models.ask_running", lambda *_: None)
    for words in (("load", "tiny"), ("unload", "tiny"), ("pin", "tiny")):
        assert swarm(*words, data_dir=data_dir) == 2
        assert f"no node runs here with {data_dir}: start one with `swarm`" in capsys.readouterr().err


def test_an_older_node_lists_what_it_runs(node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["/v1/models"] = (200, {"data": [{"id": "tiny-q8_0", "nodes": ["kitchen"]}]})
    assert rows(data_dir, capsys)["tiny-q8_0"]["state"] == "ready"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {"error": {"message": "a key is needed"}}), "a key is needed (here: --api-key KEY"),
        ((200, {"data": [{"id": 3}]}), "lists its models in a form that this version does not read"),
    ],
)
def test_a_node_that_does_not_say_leaves_this_disk(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str], answer: tuple[int, object], said: str
) -> None:
    node.answers["/v1/models"] = answer
    assert swarm("list", data_dir=data_dir) == 0
    told = capsys.readouterr()
    assert "tiny-q8_0" in told.out
    assert f"swarm: this disk only: {node.url}" in told.err or "swarm: this disk only: a key" in told.err
    assert said in told.err
    assert main(["models", "list", "--url", node.url]) == 1, "who names a node wants its list"


def test_a_node_that_is_named_is_asked_alone_and_with_the_key(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(data_dir, capsys, "--url", node.url, "--api-key", "sk-1")
    assert "my model (v2)" not in found, "this disk is not that node's"
    assert node.asked[-1] == ("/v1/models", None, "Bearer sk-1")


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("tiny-q8_0", "tiny-q8_0"),
        ("TINY", "tiny-q8_0"),
        ("qwen3:8b", "qwen3:8b:q4_k_m"),
        ("Qwen3-8B-Q4_K_M.gguf", "qwen3:8b:q4_k_m"),
        ("hf:unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", "qwen3:8b:q4_k_m"),
        ("{models}/My Model (v2).gguf", "my model (v2)"),
        ("My Model (v2)", "my model (v2)"),
        ("llama", "llama3.2:3b"),
        ("GPT-4o-mini", "gemma3:4b"),
        ("who-knows", "who-knows"),
    ],
)
def test_whatever_a_model_is_called_its_id_is_sent(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str], typed: str, sent: str
) -> None:
    done = {"model": sent, "node": "kitchen", "state": "ready", "load_ms": 3200.0}
    node.answers["/v1/models/load"] = (200, done)
    name = typed.format(models=data_dir / "models")
    assert swarm("load", name, data_dir=data_dir) == 0
    assert node.bodies("/v1/models/load") == [{"model": sent}]
    assert capsys.readouterr().out == f"{sent} is ready on kitchen (3 s)\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "/etc/other.gguf",
            "/etc/other.gguf is in none of the folders that a node looks into: give the node's folders",
        ),
        ("hf:owner/repo/other.gguf", "is not on this disk: `swarm models pull hf:owner/repo/other.gguf` brings it"),
        ("", "says nothing"),
    ],
)
def test_what_is_nowhere_is_said_with_the_remedy(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    node.answers["/v1/models/load"] = (404, {"error": {"message": "a name that says nothing"}})
    assert swarm("load", typed, data_dir=data_dir) == 2
    assert said in capsys.readouterr().err


def test_a_name_that_may_be_two_models_names_both(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(data_dir / "models" / "tiny-q8_0.gguf", data_dir / "models" / "tiny-b.gguf")
    with (data_dir / "models" / "tiny-b.gguf").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\x7f" * 8)
    assert swarm("unload", "tiny", data_dir=data_dir) == 2
    assert "'tiny' may be tiny-b or tiny-q8_0: give one of them" in capsys.readouterr().err
    assert not node.bodies("/v1/models/unload")


def test_what_is_asked_beside_the_name_is_sent(node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = {"model": "tiny-q8_0", "node": "attic"}
    for action, more in (("load", {}), ("unload", {}), ("pin", {"pinned": True})):
        node.answers[f"/v1/models/{action}"] = (200, {**done, **more})
    assert swarm("load", "tiny", "--on", "attic", "--pin", data_dir=data_dir) == 0
    assert node.bodies("/v1/models/load") == [{"model": "tiny-q8_0", "node": "attic", "pin": True}]
    assert swarm("unload", "tiny", "--on", "attic", data_dir=data_dir) == 0
    assert node.bodies("/v1/models/unload") == [{"model": "tiny-q8_0", "node": "attic"}]
    assert swarm("pin", "tiny", data_dir=data_dir) == 0
    assert swarm("pin", "tiny", "--off", "--on", "attic", data_dir=data_dir) == 0
    assert node.bodies("/v1/models/pin") == [
        {"model": "tiny-q8_0", "pinned": True}, {"model": "tiny-q8_0", "node": "attic", "pinned": False},
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "tiny-q8_0 is ready on attic, and stays",
        "tiny-q8_0 is unloaded on attic: it loads again when it is asked for",
        "tiny-q8_0 on attic stays loaded until it is unloaded",
        "tiny-q8_0 on attic is unloaded where its memory is wanted",
    ]


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 2), (403, 1), (503, 1)])
def test_a_refusal_is_shown_as_the_node_words_it(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    said = "tiny-q8_0 needs 9.0 GiB, and at most 4.0 GiB can be free on kitchen"
    node.answers["/v1/models/load"] = (status, {"error": {"message": said}})
    assert swarm("load", "tiny-q8_0", data_dir=data_dir) == code
    assert capsys.readouterr().err == f"swarm: {said}\n"


def test_a_node_that_loads_nothing_when_asked_is_said_to_be_older(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["/v1/models/load"] = (405, {"error": {"message": "this endpoint does not take that method"}})
    assert swarm("load", "tiny-q8_0", data_dir=data_dir) == 1
    assert f"the node at {node.url}/v1/models/load is of an earlier version" in capsys.readouterr().err


def test_how_far_a_load_is_is_shown(node: Told) -> None:
    shown = LoadShown(NodeApi(node.url), "llama3.2:3b", "attic")
    assert shown.look() == ("loading llama3.2:3b on attic 62 %, 3 s left", 0.62)
    node.answers["/v1/models"] = (500, {})
    assert shown.look() == ("loading llama3.2:3b on attic: 0 s so far", None)


def test_what_a_running_node_has_loaded_is_not_removed(
    node: Told, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data_dir / "models" / "tiny-q8_0.gguf"
    assert swarm("rm", "tiny-q8_0", data_dir=data_dir) == 2
    assert (
        "tiny-q8_0 is ready on the node that runs here: `swarm models unload tiny-q8_0` first"
        in capsys.readouterr().err
    )
    assert swarm("rm", "tiny-q8_0", "--dry-run", data_dir=data_dir) == 0
    assert "it is ready on the node that runs here: unload it first" in capsys.readouterr().out
    assert path.exists()
    node.answers["/v1/federation/health"] = (200, {"node": KITCHEN, "own_models": []})
    assert swarm("rm", "tiny-q8_0", data_dir=data_dir) == 0
    assert not path.exists()


def test_who_else_has_what_is_removed_is_said(
    node: Told, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "elsewhere" / "models--unsloth--Qwen3-8B-GGUF" / "snapshots" / "c0ffee" / "Qwen3-8B-Q4_K_M.gguf"
    other.parent.mkdir(parents=True)
    begun = data_dir / "models" / ".partial" / "unsloth--Qwen3-8B-GGUF" / "Qwen3-8B-Q8_0.gguf.0123456789abcdef"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"x" * (2 << 20))
    own = data_dir / "models" / "unsloth--Qwen3-8B-GGUF" / "Qwen3-8B-Q4_K_M.gguf"
    shutil.copy(own, other)
    for words, verb in ((("--dry-run",), "would remove"), ((), "removed")):
        assert own.exists()
        assert swarm("rm", "qwen3:8b", *words, data_dir=data_dir) == 0
        first, *rest = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{verb} qwen3:8b:q4_k_m (")
        assert rest[0] == f"  2 MiB of unfinished downloads from there stay in {begun.parents[1]}"
        assert rest[1:] == [f"  a copy stays at {other}, which is not this program's to remove", "  attic has it, too"]
    assert not own.parent.exists()
    assert other.exists()


def test_the_image_part_goes_with_the_last_model_that_needs_it(
    data_dir: Path, make_gguf: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_dir / "models" / "unsloth--Qwen3-8B-GGUF"
    shutil.copy(make_gguf("mmproj-F16.gguf", architecture="clip"), folder)
    first = folder / "Qwen3-8B-Q4_K_M.gguf"
    (folder / "Qwen3-8B-Q8_0.gguf").write_bytes(first.read_bytes()[:-8] + (9).to_bytes(8, "little"))
    assert swarm("rm", "qwen3:8b:q4_k_m", data_dir=data_dir) == 0
    assert "image part" not in capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("*.gguf")) == ["Qwen3-8B-Q8_0.gguf", "mmproj-F16.gguf"]
    assert swarm("rm", "qwen3-8b-q8_0", data_dir=data_dir) == 0
    assert " and its image part mmproj-F16.gguf (1 MiB)" in capsys.readouterr().out
    assert not folder.exists()


async def test_a_real_node_does_what_it_is_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machine = Machine(total=500)
    for name in ("tiny-q8_0", "llama3.2:3b"):
        machine.add(name, 300)
    options = NodeOptions(
        source=machine, memory=machine.rules(), pool_pace=QUICK, aliases={"gpt-4o-mini": "llama3.2:3b"}
    )

    async def swarm_models(*words: str) -> tuple[int, list[str]]:
        code = await asyncio.to_thread(main, ["models", *words, "--url", node.url, "--data-dir", str(tmp_path)])
        told = capsys.readouterr()
        return code, (told.out + told.err).splitlines()

    async def states() -> dict[str, str]:
        code, lines = await swarm_models("list", "--json")
        assert code == 0
        return {row["name"]: row["state"] for row in json.loads("\n".join(lines))}

    async with RunningNode("kitchen", options=options) as node:
        assert await states() == {"tiny-q8_0": "available", "llama3.2:3b": "available"}
        assert await swarm_models("load", "tiny") == (0, ["tiny-q8_0 is ready on kitchen"])
        assert await states() == {"tiny-q8_0": "ready", "llama3.2:3b": "available"}
        assert await swarm_models("load", "gpt-4o-mini", "--pin") == (0, ["llama3.2:3b is ready on kitchen, and stays"])
        assert await states() == {"llama3.2:3b": "ready", "tiny-q8_0": "available"}, "there was no room for both"
        code, lines = await swarm_models("load", "tiny", "--on", "kitchen")
        assert code == 1
        assert "300 MiB" in lines[0], "the numbers, of a node whose memory is pinned"
        assert await swarm_models("pin", "llama", "--off") == (
            0, ["llama3.2:3b on kitchen is unloaded where its memory is wanted"],
        )  # fmt: skip
        assert await swarm_models("unload", "llama") == (
            0, ["llama3.2:3b is unloaded on kitchen: it loads again when it is asked for"],
        )  # fmt: skip
        assert await states() == {"llama3.2:3b": "available", "tiny-q8_0": "available"}
        assert await swarm_models("pin", "llama", "--off") == (
            0, ["llama3.2:3b on kitchen is not loaded, and not kept"],
        )  # fmt: skip
        code, lines = await swarm_models("load", "no-such-model")
        assert (code, "no-such-model" in lines[0]) == (2, True)
        code, lines = await swarm_models("load", "tiny", "--on", "attic")
        assert (code, "attic" in lines[0]) == (2, True)
