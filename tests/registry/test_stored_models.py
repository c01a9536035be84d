"""What a scan of folders finds, what it calls it, and what it leaves out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from swarm.errors import SetupError
from swarm.registry import model_index
from swarm.registry.catalogue import Catalogue
from swarm.registry.file_hashes import WorkStopped
from swarm.registry.fit import Capacity, judge
from swarm.registry.found_files import FoundFile, ModelOrigin, ModelPlace
from swarm.registry.gguf_header import GgufIdentity, read_gguf, read_identity, read_model
from swarm.registry.model_ids import NamesOfCatalogue
from swarm.registry.model_memory import Load
from swarm.registry.places import ModelPlaces
from swarm.registry.stored import ModelStore, StoredModels, remove

MakeGguf = Callable[..., Path]
CATALOGUE = Catalogue.load()
QWEN_FILE = "Qwen3-8B-Q4_K_M.gguf"
QWEN_REPO = "unsloth--Qwen3-8B-GGUF"


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def look(*places: tuple[ModelOrigin, Path], index: Path | None = None, **most: int) -> StoredModels:
    """What lies in these places, without what every node has."""
    here = ModelPlaces(tuple(ModelPlace(*place) for place in places), packages=False)
    found = ModelStore(here, CATALOGUE, index, **most).look()
    return replace(found, models=tuple(model for model in found.models if model.listed))


NOTHING = StoredModels(reserved=NamesOfCatalogue(CATALOGUE).taken)


def scanned(models_dir: Path) -> StoredModels:
    return look(("own", models_dir))


def test_a_folder_that_is_not_there_has_no_models(tmp_path: Path) -> None:
    assert scanned(tmp_path / "none") == NOTHING


@pytest.mark.parametrize(
    ("where", "id_"),
    [
        (f"{QWEN_REPO}/{QWEN_FILE}", "qwen3:8b:q4_k_m"),
        (QWEN_FILE, "qwen3:8b:q4_k_m"),
        (QWEN_FILE.lower(), "qwen3:8b:q4_k_m"),
        (f"someone--else/{QWEN_FILE}", "qwen3-8b-q4_k_m"),
        ("mine.gguf", "mine"),
        ("deep/er/still/mine.gguf", "mine"),
    ],
)
def test_a_model_has_its_catalogue_name_or_its_files(
    make_gguf: MakeGguf, models_dir: Path, where: str, id_: str
) -> None:
    path = make_gguf(f"models/{where}")
    (model,) = scanned(models_dir).models
    assert (model.id, model.path, model.format) == (id_, path, "gguf")
    assert model.in_catalogue == (":" in id_)
    assert model.size_bytes == path.stat().st_size
    assert model.facts is not None
    assert model.facts.layers == 2


@pytest.mark.parametrize("name", ["demo", "Demo", "qwen3", "Qwen3:4b", "qwen3:8b:q4_k_m", "qwen3-8b-q4_k_m.gguf"])
def test_a_file_that_is_called_like_another_model_keeps_its_ending(
    make_gguf: MakeGguf, models_dir: Path, name: str
) -> None:
    make_gguf(f"models/someone--else/{name}.gguf")
    (model,) = scanned(models_dir).models
    assert model.id == f"{name.lower()}.gguf"
    if not name.endswith(".gguf"):
        assert scanned(models_dir).named(name) is None, "the name alone means the other one"


STRANGE = ["tiny-q8_0", "My Model (v2)", "UPPER", "hf:x", "a:b:c:d", "ünïcode", "-dash", "x.y.z", "with'quote"]


def test_every_name_leads_back_to_its_file(make_gguf: MakeGguf, models_dir: Path) -> None:
    names = (*STRANGE, "demo", "qwen3", f"{QWEN_REPO}/{QWEN_FILE.removesuffix('.gguf')}")
    for number, name in enumerate(names):
        make_gguf(f"models/{name}.gguf", tokens=32 + number)
    local = scanned(models_dir)
    assert len(local.models) == len(STRANGE) + 3
    for model in local.models:
        others = (model.id, model.id.upper(), f" {model.id}", model.path.name, str(model.path))
        assert [local.named(name) for name in others] == [model] * len(others), model.id
    assert local.named("nothing") is None


def test_a_name_that_may_be_two_files_says_which(make_gguf: MakeGguf, models_dir: Path) -> None:
    first, second = make_gguf("models/one/same.gguf"), make_gguf("models/two/same.gguf", tokens=33)
    found = scanned(models_dir)
    plain, other = sorted(found.models, key=lambda model: len(model.id))
    assert (plain.id, other.id) == ("same", f"same@{other.fingerprint[:6]}")
    assert {plain.path, other.path} == {first, second}
    assert found.named("Same") == plain, "an id is an id"
    assert found.named(str(first)) != found.named(str(second))
    with pytest.raises(SetupError, match=r"'same\.gguf' may be same or same@[0-9a-f]{6}: give one of them"):
        found.named("same.gguf")


def test_the_same_content_in_two_places_is_one_model(make_gguf: MakeGguf, tmp_path: Path, models_dir: Path) -> None:
    theirs = make_gguf("extra/theirs.gguf")
    ours = models_dir / "ours.gguf"
    shutil.copy(theirs, ours)
    found = look(("folder", tmp_path / "extra"), ("own", models_dir))
    (model,) = found.models
    assert (model.id, model.path, model.source) == ("ours", ours, "own")
    assert [found.named(name) for name in ("theirs", "theirs.gguf", "ours.gguf")] == [model] * 3


def test_weights_that_differ_under_one_header_are_two_models(make_gguf: MakeGguf, models_dir: Path) -> None:
    first = make_gguf("models/one/same.gguf")
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    second = models_dir / "two" / "same.gguf"
    second.parent.mkdir()
    second.write_bytes(content)
    plain, other = sorted(scanned(models_dir).models, key=lambda model: len(model.id))
    assert plain.fingerprint == other.fingerprint
    assert other.id.startswith("same@")
    assert {plain.path, other.path} == {first, second}


def test_real_numbers_reach_the_fit(make_gguf: MakeGguf, models_dir: Path) -> None:
    path = make_gguf(f"models/{QWEN_REPO}/{QWEN_FILE}")
    make_gguf("models/mine.gguf")
    measured = scanned(models_dir).measured()
    assert list(measured) == ["qwen3:8b:q4_k_m"]
    (choice,) = (c for c in CATALOGUE.choices() if c.id == "qwen3:8b:q4_k_m")
    verdict = judge(choice, Capacity(2 << 30, Load(512), measured=measured))
    assert verdict.need.weights_bytes == path.stat().st_size
    assert verdict.fits


def test_parts_are_one_model_and_an_incomplete_one_is_a_problem(make_gguf: MakeGguf, models_dir: Path) -> None:
    whole = make_gguf()
    for name in ("a-00001-of-00002", "a-00002-of-00002", "b-00001-of-00002"):
        shutil.copy(whole, models_dir / f"{name}.gguf")
    found = scanned(models_dir)
    assert [(model.id, model.size_bytes) for model in found.models] == [("a", 2 * whole.stat().st_size)]
    assert len(found.problems) == 1
    assert "b-00002-of-00002.gguf does not exist" in found.problems[0]


def test_a_broken_file_is_a_problem_and_the_rest_is_found(make_gguf: MakeGguf, models_dir: Path) -> None:
    make_gguf("models/good.gguf")
    (models_dir / "broken.gguf").write_bytes(b"<html>not a model</html>")
    found = scanned(models_dir)
    assert [model.id for model in found.models] == ["good"]
    assert len(found.problems) == 1
    assert "broken.gguf: it is not a GGUF file but a web page: it begins with b'<htm'" in found.problems[0]


def test_partial_files_and_hidden_folders_are_left_out(make_gguf: MakeGguf, models_dir: Path) -> None:
    make_gguf("models/.partial/o--r/model.gguf")
    (models_dir / "model.gguf.0123456789abcdef").write_bytes(b"GGUF")
    assert scanned(models_dir) == NOTHING


def make_mlx(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": folder.name, "model_type": "qwen3"}))
    header = json.dumps({"weight": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(1000))
    return folder


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_mlx_folders_are_models(models_dir: Path) -> None:
    known = make_mlx(models_dir / "mlx-community--Qwen3-4B-4bit")
    other = make_mlx(models_dir / "mlx-community--Something-4bit")
    make_mlx(models_dir / "openai--whisper")
    models = {model.id: model for model in scanned(models_dir).models}
    assert list(models) == ["qwen3:4b:4bit", "mlx-community--something-4bit"]
    assert models["qwen3:4b:4bit"].path == known
    assert models["qwen3:4b:4bit"].size_bytes == size_of(known)
    assert models["mlx-community--something-4bit"].path == other


def test_the_hub_cache_is_read_through_its_links(make_gguf: MakeGguf, tmp_path: Path) -> None:
    repo = tmp_path / "cache" / "models--unsloth--Qwen3-8B-GGUF"
    (choice,) = (choice for choice in CATALOGUE.choices() if choice.id == "qwen3:8b:q4_k_m")
    sha256 = str(choice.variant.sha256)
    blob = make_gguf(f"cache/{repo.name}/blobs/{sha256}")
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / QWEN_FILE).symlink_to(blob)
    (snapshot / "copy.gguf").symlink_to(blob)
    found = look(("hugging face", tmp_path / "cache"))
    (model,) = found.models
    assert (model.id, model.path, model.sha256) == ("qwen3:8b:q4_k_m", snapshot / QWEN_FILE, sha256)
    assert found.named(f"hf:unsloth/Qwen3-8B-GGUF/{QWEN_FILE}") == found.named("copy") == model


def test_the_models_folder_wins_over_the_hubs_cache(make_gguf: MakeGguf, tmp_path: Path, models_dir: Path) -> None:
    ours = make_gguf("models/same.gguf")
    make_gguf("extra/same.gguf")
    other = make_gguf("extra/other.gguf", tokens=33)
    found = look(("own", models_dir), ("hugging face", tmp_path / "extra"))
    assert [model.path for model in found.models] == [ours, other]


def test_links_that_go_round_end(make_gguf: MakeGguf, models_dir: Path) -> None:
    make_gguf("models/one.gguf")
    for n in range(10):
        (models_dir / f"loop{n}").symlink_to(models_dir)
    places = ModelPlaces((ModelPlace("own", models_dir),), packages=False)
    found = list(places.files(most_visited=10**9))  # 10**6, were every link followed
    assert [file.name for file in found if isinstance(file, FoundFile)] == ["one"]


def test_a_link_to_another_disk_is_followed(make_gguf: MakeGguf, tmp_path: Path, models_dir: Path) -> None:
    make_gguf("elsewhere/one.gguf")
    (models_dir / "big-disk").symlink_to(tmp_path / "elsewhere")
    assert [model.id for model in scanned(models_dir).models] == ["one"]


def test_an_unreadable_folder_is_passed_over(make_gguf: MakeGguf, models_dir: Path) -> None:
    make_gguf("models/one.gguf")
    (models_dir / "gone").symlink_to(models_dir / "nowhere")
    assert [model.id for model in scanned(models_dir).models] == ["one"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/c"}, "/c"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/home/someone"}, "/home/someone/.cache/huggingface/hub"),
    ],
)
def test_the_hub_cache_is_where_the_library_has_it(environment: dict[str, str], expected: str) -> None:
    places = ModelPlaces.of(Path("/own"), environment=environment).places
    assert [place.folder for place in places if place.source == "hugging face"] == [Path(expected)]


def test_a_model_is_removed_with_all_its_files(make_gguf: MakeGguf, models_dir: Path) -> None:
    whole = make_gguf()
    (models_dir / "o--r").mkdir()
    for n in (1, 2):
        shutil.copy(whole, models_dir / "o--r" / f"a-0000{n}-of-00002.gguf")
    mlx_bytes = size_of(make_mlx(models_dir / "mlx-community--Qwen3-4B-4bit"))
    freed = [remove(model, models_dir) for model in scanned(models_dir).models]
    assert sorted(freed) == sorted([mlx_bytes, 2 * whole.stat().st_size])
    assert list(models_dir.iterdir()) == []


def test_a_model_of_someone_else_is_not_removed(make_gguf: MakeGguf, tmp_path: Path, models_dir: Path) -> None:
    path = make_gguf("extra/theirs.gguf")
    (model,) = look(("own", models_dir), ("hugging face", tmp_path / "extra")).models
    with pytest.raises(SetupError, match=r"theirs is in .*extra, not in .*models: remove it there yourself"):
        remove(model, models_dir)
    assert path.exists()


def test_a_model_that_is_gone_already_is_said(make_gguf: MakeGguf, models_dir: Path) -> None:
    path = make_gguf("models/one.gguf")
    (model,) = scanned(models_dir).models
    path.unlink()
    with pytest.raises(SetupError, match=r"cannot remove .*one\.gguf: No such file"):
        remove(model, models_dir)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read."""
    noted: list[str] = []

    def read(path: Path) -> GgufIdentity:
        noted.append(path.name)
        return read_identity(path)

    monkeypatch.setattr(model_index, "read_identity", read)
    return noted


def test_a_file_is_read_once_for_as_long_as_it_stays_the_same(
    make_gguf: MakeGguf, models_dir: Path, tmp_path: Path, reads: list[str]
) -> None:
    index = tmp_path / "data" / "models.json"
    make_gguf("models/one.gguf", rope__dimension_count=8)
    for number in (1, 2):
        shutil.copy(make_gguf(tokens=33), models_dir / f"two-0000{number}-of-00002.gguf")
    (models_dir / "broken.gguf").write_bytes(b"<html>")
    first = look(("own", models_dir), index=index)
    assert [model.id for model in first.models] == ["one", "two"]
    assert len(first.problems) == 1
    assert reads, "the first time"
    reads.clear()
    assert look(("own", models_dir), index=index) == first, "by another process"
    assert reads == []
    os.utime(models_dir / "two-00002-of-00002.gguf", ns=(1, 1))
    make_gguf("models/broken.gguf", tokens=34)
    assert [model.id for model in look(("own", models_dir), index=index).models] == ["broken", "one", "two"]
    assert sorted(reads) == ["broken.gguf", "two-00001-of-00002.gguf"]
    (models_dir / "one.gguf").unlink()
    assert [model.id for model in look(("own", models_dir), index=index).models] == ["broken", "two"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 2, "files": {}}', b'{"version": 1, "files": {"/x": 7}}', b"\xff"]
)
def test_a_damaged_index_is_made_again(
    make_gguf: MakeGguf, models_dir: Path, tmp_path: Path, content: bytes, reads: list[str]
) -> None:
    make_gguf("models/one.gguf")
    index = tmp_path / "models.json"
    index.write_bytes(content)
    for _ in range(2):
        assert [model.id for model in look(("own", models_dir), index=index).models] == ["one"]
    assert reads.count("one.gguf") == 1


def test_an_index_that_cannot_be_written_is_done_without(make_gguf: MakeGguf, models_dir: Path, tmp_path: Path) -> None:
    make_gguf("models/one.gguf")
    (tmp_path / "file").touch()
    found = look(("own", models_dir), index=tmp_path / "file" / "models.json")
    assert [model.id for model in found.models] == ["one"]


def test_an_index_forgets_what_is_gone_where_it_grows(make_gguf: MakeGguf, models_dir: Path, tmp_path: Path) -> None:
    index = tmp_path / "models.json"
    for number in range(3):
        path = make_gguf(f"models/{number}.gguf", tokens=32 + number)
        look(("own", models_dir), index=index, most_kept=4)  # three are the embedded ones
        path.unlink()
    kept = json.loads(index.read_text())["files"]
    assert {Path(name).name for name in kept} == {"demo.gguf", "demo-b.gguf", "demo-c.gguf", "2.gguf"}


def test_what_was_found_is_looked_at_again_when_it_is_old(make_gguf: MakeGguf, models_dir: Path) -> None:
    store = ModelStore(ModelPlaces((ModelPlace("own", models_dir),), packages=False), CATALOGUE)
    assert store.latest == StoredModels()
    before = store.look()
    make_gguf("models/new.gguf")
    assert store.look() is before is store.latest
    assert "new" in store.look(max_age_s=0.0).by_id()


def test_what_was_read_before_a_stop_is_kept(
    make_gguf: MakeGguf, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, reads, index = threading.Event(), list[str](), tmp_path / "models.json"
    for number in range(4):
        make_gguf(f"models/{number}.gguf", tokens=32 + number)

    def read(path: Path) -> GgufIdentity:
        reads.append(path.name)
        if path.name == "1.gguf":
            stop.set()
        return read_identity(path)

    monkeypatch.setattr(model_index, "read_identity", read)
    places = ModelPlaces((ModelPlace("own", models_dir),), packages=False)
    with pytest.raises(WorkStopped):
        ModelStore(places, CATALOGUE, index).look(stop=stop)
    assert len(ModelStore(places, CATALOGUE, index).look().models) == 7
    assert sorted(name for name in reads if name[0].isdigit()) == ["0.gguf", "1.gguf", "2.gguf", "3.gguf"]


def test_a_fingerprint_is_of_the_header_alone_however_it_is_read(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path = make_gguf("large.gguf", tokens=5000)
    identities = [read_identity(path) for _ in range(2)]  # walked, then known by its vocabulary
    assert identities[0] == identities[1]
    assert identities[0].facts == read_gguf(path)
    assert read_model(path).fingerprint == identities[0].fingerprint
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.gguf").write_bytes(content)
    assert read_identity(tmp_path / "weights.gguf").fingerprint == identities[0].fingerprint
    at = content.index(b"token 4999")
    content[at : at + 5] = b"TOKEN"
    (tmp_path / "token.gguf").write_bytes(content)
    assert read_identity(tmp_path / "token.gguf").fingerprint != identities[0].fingerprint
    assert read_identity(path).facts.longest_token_bytes == len("token 4999")


def test_a_model_that_holds_its_image_part_is_named_with_the_reason(models_dir: Path) -> None:
    models_dir.mkdir(exist_ok=True)
    writer = GGUFWriter(models_dir / "vision.gguf", "gemma3")
    for name in ("token_embd.weight", "v.blk.0.attn_q.weight"):
        writer.add_tensor(name, np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = scanned(models_dir)
    assert not found.models
    assert "vision.gguf is a model with its image part in the same file, as Ollama keeps some" in found.problems[0]


def test_what_is_too_much_to_look_at_is_said(
    make_gguf: MakeGguf, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gguf("models/one.gguf")
    make_gguf("models/deep/two.gguf", tokens=33)
    places = ModelPlaces((ModelPlace("own", models_dir),), packages=False)
    (said,) = (found for found in places.files(most_visited=1) if isinstance(found, str))
    assert said == f"{models_dir} has more below it than is looked at (1 entries): give the models' own folder"
    found = look(("own", models_dir), most_models=4)  # three are the embedded ones
    assert [model.id for model in found.models] == ["one"]
    assert found.problems == ("more than 4 model files are here: those after 4 are left out",)


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are text there")
def test_a_file_whose_name_is_no_text_is_a_model_like_others(
    make_gguf: MakeGguf, models_dir: Path, tmp_path: Path, reads: list[str]
) -> None:
    index = tmp_path / "models.json"
    make_gguf("models/one.gguf")
    shutil.copy(make_gguf(tokens=33), models_dir / os.fsdecode(b"two-\xff.gguf"))
    for _ in range(2):
        found = look(("own", models_dir), index=index)
        assert [model.id for model in found.models] == ["one", "two-?"]
        assert all(name.isprintable() for model in found.models for name in (model.id, *model.also))
        json.dumps([[model.id, *model.also] for model in found.models], ensure_ascii=False).encode()
    assert reads.count("one.gguf") == 1
    assert "one.gguf" in index.read_text()


def test_a_folder_in_which_nothing_can_be_asked_for_is_named(
    make_gguf: MakeGguf, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gguf("models/one.gguf")
    locked = tmp_path / "locked"
    is_dir = Path.is_dir

    def guarded(path: Path) -> bool:
        if path.is_relative_to(locked):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", guarded)
    found = look(("own", models_dir), ("folder", locked))
    assert [model.id for model in found.models] == ["one"]
    assert found.problems[0].startswith(f"cannot read the folder {locked}: Permission denied; let this user read it")
