"""`swarm models`: every name that it prints can be typed back, and what is named is what comes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.hostport import Address
from swarm.cli import main
from swarm.errors import SetupError
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue
from swarm.registry.names import CatalogueRef, parse_model, resolve
from tests.commands.test_model_choice import Listener, machine
from tests.doubles.choosing import choose_model
from tests.doubles.tiny_models import write_named_model
from tests.registry.fake_hub import Hub, Upload

REPO = "owner/repo-GGUF"
FOLDER = "owner--repo-GGUF"


async def nobody(visitor_id: str) -> list[Address]:
    """Who announces himself by mDNS."""
    return []


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """No models of other programs, no peers, and no hub where a test has none."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("swarm.commands.models._announced", nobody)
    if "hub" not in request.fixturenames:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Models of the user's own: called like anything, and one of the catalogue."""
    models = tmp_path / "data" / "models"
    for name in ("tiny-q8_0", "My Model (v2)", "demo", "unsloth--Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M", f"{FOLDER}/Deep-F16"):
        write_named_model(models / f"{name}.gguf")
    return tmp_path / "data"


def swarm(*words: str, data_dir: Path) -> int:
    return main(["models", *words, "--data-dir", str(data_dir)])


def listed(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str | None]]:
    """All that there is, but for the embedded models, which nobody removes."""
    assert swarm("list", "--all", "--json", data_dir=data_dir) == 0
    return [row for row in json.loads(capsys.readouterr().out) if row["source"] != "embedded"]


def test_every_name_that_is_listed_is_a_model(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(data_dir, capsys)
    assert {row["format"] for row in rows} == {"gguf"}, "only what an engine here runs"
    here = [row for row in rows if row["path"]]
    assert {row["name"] for row in here} == {
        "tiny-q8_0", "my model (v2)", "demo.gguf", "qwen3:8b:q4_k_m", "deep-f16",
    }  # fmt: skip
    for row in here:
        name = str(row["name"])
        for typed in (name, name.upper(), Path(str(row["path"])).name, str(row["path"])):
            chosen = choose_model(Settings(data_dir=data_dir, model=(typed,)), machine(), Listener())
            assert str(chosen.path) == row["path"], typed
            assert chosen.model_id == name, "one file has one name, however it is asked for"
    for row in rows:
        if not row["path"]:
            ref = parse_model(str(row["name"]))
            assert isinstance(ref, CatalogueRef)
            assert resolve(ref, Catalogue.load()).id == row["name"]


def test_every_name_that_fit_prints_is_listed(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {row["name"] for row in listed(data_dir, capsys)}
    assert swarm("fit", "--json", data_dir=data_dir) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} <= names


@pytest.mark.parametrize("option", ["--workers", "--context"])
@pytest.mark.parametrize("number", ["0", "-3"])
def test_a_load_of_nothing_is_refused(
    data_dir: Path, capsys: pytest.CaptureFixture[str], option: str, number: str
) -> None:
    assert swarm("fit", option, number, data_dir=data_dir) == 2
    assert f"{number} " in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["name", "upper", "path"])
def test_every_name_that_is_listed_can_be_removed_and_pulled(
    data_dir: Path, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    for row in [row for row in listed(data_dir, capsys) if row["path"]]:
        name, path = str(row["name"]), Path(str(row["path"]))
        spelled = {"name": name, "upper": name.upper(), "path": str(path)}[typed]
        assert swarm("pull", spelled, data_dir=data_dir) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(path), "it is here already"
        assert swarm("rm", spelled, data_dir=data_dir) == 0
        assert not path.exists()
        assert capsys.readouterr().out.startswith(f"removed {name} (")
    assert not [row for row in listed(data_dir, capsys) if row["path"]]


@pytest.mark.parametrize(
    ("name", "removed"),
    [("qwen3", "qwen3:8b:q4_k_m"), ("qwen3:8b", "qwen3:8b:q4_k_m"), (f"hf:{REPO}/Deep-F16.gguf", "deep-f16"),
     (f"https://huggingface.co/{REPO}/resolve/main/Deep-F16.gguf", "deep-f16"), (f"hf:{REPO}", "deep-f16")],
)  # fmt: skip
def test_other_names_of_what_is_here_remove_it_too(
    data_dir: Path, capsys: pytest.CaptureFixture[str], name: str, removed: str
) -> None:
    assert swarm("rm", name, data_dir=data_dir) == 0
    assert capsys.readouterr().out.startswith(f"removed {removed} (")


@pytest.mark.parametrize(
    ("file", "name"),
    [("m.gguf", f"hf:{REPO}/m.gguf"), ("qwen3-0.6b.gguf", "qwen3:0.6b:q8_0"), ("whole", "hf:mlx/tiny")],
)
def test_what_broke_off_is_named_by_the_list_and_removed_by_that_name(
    data_dir: Path, hub: Hub, capsys: pytest.CaptureFixture[str], file: str, name: str
) -> None:
    """As it is named to go on: by the hub's name, the catalogue's, or that of a whole repository."""
    (choice,) = (choice for choice in Catalogue.load().choices() if choice.id == "qwen3:0.6b:q8_0")
    hub.put(REPO, "m.gguf", Upload(bytes(300_000)))
    hub.put(choice.variant.place, choice.variant.file or "", Upload(bytes(300_000), etag=choice.variant.sha256))
    hub.cuts, hub.cut_rest = [200_000], True
    if file == "whole":
        staging = data_dir / "models" / ".partial" / "mlx--tiny.0123456789abcdef"
        staging.mkdir(parents=True)
        (staging / "model.safetensors").write_bytes(bytes(200_000))
    else:
        assert swarm("pull", name, data_dir=data_dir) == 2
    capsys.readouterr()
    assert swarm("list", data_dir=data_dir) == 0
    assert f"of {name} 1 MiB arrived, not all of it: `swarm models pull {name}` goes on" in capsys.readouterr().err
    for words, said in ((["--dry-run"], "would remove"), ([], "removed")):
        assert swarm("rm", name, *words, data_dir=data_dir) == 0
        assert capsys.readouterr().out == f"{said} what had arrived of {name} (1 MiB)\n"
    assert swarm("rm", name, data_dir=data_dir) == 2
    assert f"{name} is not downloaded" in capsys.readouterr().err


@pytest.mark.parametrize("spelled", ["path", "name"])
def test_a_damaged_file_is_named_by_the_list_and_removed_by_that_name(
    data_dir: Path, capsys: pytest.CaptureFixture[str], spelled: str
) -> None:
    path = data_dir / "models" / FOLDER / "broken.gguf"
    path.write_bytes(b"<html>login</html>")
    assert swarm("list", data_dir=data_dir) == 0
    assert f"not listed: cannot use {path}" in capsys.readouterr().err
    assert swarm("rm", str(path) if spelled == "path" else path.name, data_dir=data_dir) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("demo:b", "demo:b comes with this program: it is not removed"),
        ("qwen3:4b", "qwen3:4b is not downloaded; in .*: .*tiny-q8_0"),
        ("nothing", "nothing is not downloaded"),
        ("/etc/passwd", "/etc/passwd is not downloaded"),
        ("theirs", "theirs is in .*snapshots/c0ffee, not in .*models: remove it there yourself"),
    ],
)
def test_what_is_not_ours_is_not_removed(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    theirs = write_named_model(tmp_path / "hub-cache" / "models--their--repo" / "snapshots" / "c0ffee" / "theirs.gguf")
    for words in ([], ["--dry-run"]):
        assert swarm("rm", name, *words, data_dir=data_dir) == 2
        assert re.search(said, capsys.readouterr().err)
    assert theirs.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3:4b:4bit", "qwen3:4b:4bit comes as MLX only, which no engine here runs; there is qwen3:4b:q4_k_m"),
        ("gpt-oss:20b:4bit", "there is no gpt-oss:20b:4bit; there is gpt-oss:20b:mxfp4"),
        ("tiny-q8_1", "no model is called 'tiny-q8_1'; did you mean tiny-q8_0?"),
        ("elsewhere/m.gguf", "'elsewhere/m.gguf' is not on this disk, and a path cannot be downloaded"),
    ],
)
def test_what_is_not_exactly_there_is_not_replaced(
    data_dir: Path, hub: Hub, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert swarm("pull", name, data_dir=data_dir) == 2
    assert said in capsys.readouterr().err
    assert hub.asked == []


@pytest.fixture
def repository(hub: Hub, demo_model: Path) -> Hub:
    content = demo_model.read_bytes()
    parts = [f"BF16/m-BF16-0000{part}-of-00002.gguf" for part in (1, 2)]
    for file in ("m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf", *parts, "README.md"):
        hub.put(REPO, file, Upload(content))
    hub.put("mlx-community/thing-4bit", "model.safetensors", Upload(content))
    hub.put("mlx-community/thing-4bit", "config.json", Upload(b"{}", large=False))
    hub.put("one/file", "only.gguf", Upload(content))
    return hub


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (f"hf:{REPO}:Q4_K_M", "m-Q4_K_M.gguf"),
        (f"hf.co/{REPO}:q8_0", "m-Q8_0.gguf"),
        (f"hf:{REPO}:UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (f"hf:{REPO}:BF16", "m-BF16-00001-of-00002.gguf"),
        ("hf:one/file", "only.gguf"),
        (f"https://huggingface.co/{REPO}/resolve/main/m-Q8_0.gguf?download=true", "m-Q8_0.gguf"),
        (f"https://huggingface.co/{REPO}/blob/main/BF16/m-BF16-00001-of-00002.gguf", "m-BF16-00001-of-00002.gguf"),
    ],
)
def test_a_file_of_the_hub_is_named_as_people_copy_it(
    tmp_path: Path, repository: Hub, capsys: pytest.CaptureFixture[str], name: str, file: str
) -> None:
    assert swarm("pull", name, data_dir=tmp_path) == 0
    assert Path(capsys.readouterr().out.splitlines()[-1]).name == file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"hf:{REPO}", f"{REPO} has 4 model files: name one of hf:{REPO}/BF16/m-BF16-00001-of-00002.gguf, hf:"),
        (f"hf:{REPO}:Q2_K", f"{REPO} has no model files in Q2_K: name one of hf:"),
        ("hf:mlx-community/thing-4bit", "has no .gguf file, and no engine here runs anything else (it is an MLX"),
    ],
)
def test_a_repository_that_leaves_it_open_is_listed(
    tmp_path: Path, repository: Hub, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert swarm("pull", name, data_dir=tmp_path) == 2
    assert said in capsys.readouterr().err
    assert repository.bodies == 0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"architecture": "clip"}, "is the image part of a vision model (architecture clip), no model of its own"),
        ({"general_type": "mmproj"}, "is the image part of a vision model"),
        ({"general_type": "adapter"}, "is an adapter (LoRA) for a model of architecture llama, no model of its own"),
        ({"general_type": "imatrix"}, "is a table of statistics for quantizing (imatrix)"),
        ({"weights": False}, "is a vocabulary without weights"),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is_and_what_to_give(
    tmp_path: Path, make_gguf: Callable[..., Path], keys: dict[str, str | bool], said: str
) -> None:
    beside = make_gguf("files/the-model.gguf")
    path = make_gguf("files/odd.gguf", **keys)
    with pytest.raises(SetupError) as caught:
        choose_model(Settings(data_dir=tmp_path, model=(str(path),)), machine(), Listener())
    assert str(caught.value).startswith(f"{path} {said}")
    assert str(caught.value).endswith(f" (beside it: {beside})")


def test_a_model_that_lacks_a_part_says_which(tmp_path: Path, make_gguf: Callable[..., Path]) -> None:
    path = make_gguf("big-00001-of-00003.gguf")
    shutil.copy(path, tmp_path / "big-00003-of-00003.gguf")
    with pytest.raises(SetupError, match=r"big-00002-of-00003\.gguf does not exist: the model is in 3 parts"):
        choose_model(Settings(data_dir=tmp_path, model=(str(path),)), machine(), Listener())
    with pytest.raises(SetupError, match=r"is part 3 of 3: give the first part, big-00001-of-00003\.gguf"):
        choose_model(
            Settings(data_dir=tmp_path, model=(str(tmp_path / "big-00003-of-00003.gguf"),)), machine(), Listener()
        )


def test_an_embedding_model_is_served_and_said_to_be_one(tmp_path: Path, make_gguf: Callable[..., Path]) -> None:
    path = make_gguf("bert.gguf", pooling_type=1)
    chosen = choose_model(Settings(data_dir=tmp_path, model=(str(path),)), machine(), Listener())
    assert chosen.reason.endswith("an embedding model: it answers /v1/embeddings and no chats")


def test_a_path_that_may_be_of_the_hub_says_how_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"does not exist: .* a file of the hub is written hf:OWNER/REPO/FILE"):
        choose_model(Settings(data_dir=tmp_path, model=("unsloth/Qwen3-8B-GGUF:Q4_K_M",)), machine(), Listener())


def test_of_what_is_on_disk_the_largest_that_is_quick_is_taken(
    tmp_path: Path, make_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gguf("models/small.gguf")
    large = make_gguf("models/large.gguf", tokens=2000)
    monkeypatch.setattr("swarm.node.model_choice.weights_bytes_per_s", lambda *_: large.stat().st_size * 100.0)
    assert choose_model(Settings(data_dir=tmp_path), machine(), Listener()).model_id == "large"
    monkeypatch.setattr("swarm.node.model_choice.weights_bytes_per_s", lambda *_: large.stat().st_size * 2.0)
    assert choose_model(Settings(data_dir=tmp_path), machine(), Listener()).model_id == "small"
