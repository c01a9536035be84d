"""The tables people read, and the same rows for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from swarm.registry.catalogue import Catalogue
from swarm.registry.fit import Capacity
from swarm.registry.found_files import ModelPlace
from swarm.registry.model_memory import GIB, Load
from swarm.registry.places import ModelPlaces
from swarm.registry.stored import ModelStore, StoredModels
from swarm.registry.table import fit_rows, fit_text, list_rows, list_text, row_json

CATALOGUE = Catalogue.load()
NOTHING = StoredModels()
ROOM = Capacity(12 * GIB, Load(8192, slots=2), bytes_per_s=28e9)


def stored(folder: Path) -> StoredModels:
    return ModelStore(ModelPlaces((ModelPlace("own", folder),), packages=False), CATALOGUE).look()


def test_the_fit_table_reads_like_this() -> None:
    wanted = {"qwen3:32b:q4_k_m", "qwen3:30b-a3b:q4_k_m", "qwen3:8b:q4_k_m", "qwen3:4b:q4_k_m"}
    choices = [choice for choice in CATALOGUE.choices() if choice.id in wanted]
    assert fit_text(fit_rows(choices, ROOM, NOTHING), ROOM) == (
        "12.0 GiB free, 2 x 8192 tokens of context; "
        "tokens/s are expected, with 28 GB of weights read a second: below 8 is slow\n"
        "NAME                      PARAMS  FORMAT       SIZE      NEEDS  TOKENS/S  FITS  ON DISK  WHY NOT\n"
        "qwen3:4b:q4_k_m               4B  gguf     ~2.6 GiB   ~5.7 GiB       ~11  yes\n"
        "qwen3:8b:q4_k_m             8.2B  gguf     ~5.1 GiB   ~8.3 GiB      ~5.5  slow\n"
        "qwen3:32b:q4_k_m           32.8B  gguf    ~19.8 GiB  ~24.7 GiB      ~1.4  no             12.7 GiB short\n"
        "qwen3:30b-a3b:q4_k_m  30.5B/3.3B  gguf    ~18.4 GiB  ~20.8 GiB       ~13  no             8.8 GiB short\n"
        "`swarm --auto` takes qwen3:4b:q4_k_m where no model is on the disk\n"
    )


def test_every_row_is_json() -> None:
    rows = [*list_rows(CATALOGUE, NOTHING, {}, everything=True), *fit_rows(CATALOGUE.choices(), ROOM, NOTHING)]
    assert len(rows) == len(CATALOGUE.choices(formats=["gguf"])) + len(CATALOGUE.choices())
    for row in rows:
        assert json.loads(json.dumps(row_json(row)))["name"] == row.name


def test_what_is_here_is_marked_and_measured(make_gguf: Callable[..., Path], tmp_path: Path) -> None:
    known = make_gguf("models/unsloth--Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf")
    make_gguf("models/mine.gguf", pooling_type=1)
    local = stored(tmp_path / "models")
    rows = {row.name: row for row in list_rows(CATALOGUE, local, {}, everything=True)}
    assert rows["qwen3:8b:q4_k_m"].path == str(known)
    assert rows["qwen3:8b:q4_k_m"].size_bytes == known.stat().st_size
    assert not rows["qwen3:8b:q4_k_m"].size_estimated
    assert rows["qwen3:14b:q4_k_m"].path is None
    assert rows["qwen3:14b:q4_k_m"].size_estimated
    assert (rows["mine"].role, rows["mine"].quant) == ("embedding", "f32")
    fits = {row.name: row for row in fit_rows(CATALOGUE.choices(), ROOM, local)}
    assert fits["qwen3:8b:q4_k_m"].on_disk
    assert not fits["qwen3:14b:q4_k_m"].on_disk


HEADS = ["NAME", "STATE", "NODE", "ROLE", "PARAMS", "CONTEXT", "SIZE", "SOURCE", "ON", "THIS", "DISK"]


def test_the_list_is_aligned_and_complete(make_gguf: Callable[..., Path], tmp_path: Path) -> None:
    make_gguf("models/mine.gguf")
    here = stored(tmp_path / "models")
    assert [row.name for row in list_rows(CATALOGUE, here, {})] == ["mine"]
    text = list_text(list_rows(CATALOGUE, here, {}, everything=True))
    lines = text.splitlines()
    assert lines[0].split() == HEADS
    assert len(lines) == 1 + len(CATALOGUE.choices(formats=["gguf"])) + len(here.models)
    column = lines[0].index("STATE")
    assert [line[column:].startswith("available") for line in lines[1:]].count(True) == len(here.models)
    (mine,) = (line for line in lines if line.startswith("mine "))
    assert mine.endswith("mine.gguf")
    assert not any(line != line.rstrip() for line in lines)


def test_an_empty_table_has_its_heads() -> None:
    assert list_text([]).split() == HEADS
