"""The data file is well-formed, its names are unique and lead back to it, and a bad file says what is wrong."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.names import CatalogueRef, parse_model, resolve

CATALOGUE = Catalogue.load()


@pytest.mark.parametrize("choice", CATALOGUE.choices(), ids=lambda choice: choice.id)
def test_every_name_leads_back_to_its_variant(choice: CatalogueChoice) -> None:
    ref = parse_model(choice.id)
    assert isinstance(ref, CatalogueRef)
    assert str(ref) == choice.id
    assert resolve(ref, CATALOGUE, [choice.variant.format]) == choice


def test_names_and_sources_are_unique() -> None:
    ids = [choice.id for choice in CATALOGUE.choices()]
    sources = [(choice.variant.repo, choice.variant.file) for choice in CATALOGUE.choices()]
    assert len(set(ids)) == len(ids) > 80
    assert len(set(sources)) == len(sources)


def test_a_hash_is_of_one_file_only() -> None:
    hashes = [choice.variant.sha256 for choice in CATALOGUE.choices() if choice.variant.sha256]
    assert len(set(hashes)) == len(hashes) > 30


def test_gguf_and_mlx_stand_side_by_side() -> None:
    formats = {choice.variant.format for choice in CATALOGUE.choices() if choice.entry.name == "qwen2.5-coder:7b"}
    assert formats == {"gguf", "mlx"}


def test_a_file_name_agrees_with_its_quant() -> None:
    for choice in CATALOGUE.choices(formats=["gguf"]):
        assert choice.variant.quant in (choice.variant.file or "").lower(), choice.id


def test_active_parameters_are_a_part_of_all() -> None:
    for entry in CATALOGUE.models:
        assert entry.active_params_b is None or entry.active_params_b < entry.params_b, entry.name
        assert (entry.active_params_b or 0) <= entry.effective_params_b <= entry.params_b * 1.000_001, entry.name


def test_choices_are_narrowed_by_role_and_format() -> None:
    narrowed = CATALOGUE.choices(roles=["code"], formats=["mlx"])
    assert narrowed
    assert {(choice.entry.role, choice.variant.format) for choice in narrowed} == {("code", "mlx")}


def shipped() -> dict[str, list[dict[str, object]]]:
    return json.loads(files("swarm.registry").joinpath("catalogue.json").read_text())


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("params_b", -1, "params_b"),
        ("family", "Has Spaces", "family"),
        ("variants", [], "variants"),
        ("surprise", 1, "surprise"),
        ("role", "poet", "role"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, field: str, value: object, complaint: str) -> None:
    data = shipped()
    data["models"][3][field] = value
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SetupError, match=rf"mine\.json: models\.3\.{complaint}"):
        Catalogue.load(path)


def test_a_name_listed_twice_is_an_error(tmp_path: Path) -> None:
    data = shipped()
    data["models"].append(data["models"][0])
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SetupError, match=r"listed twice: qwen3\.5:0\.8b:q4_k_m"):
        Catalogue.load(path)


def test_a_missing_or_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read the model catalogue"):
        Catalogue.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"schema": 1, "models": [')
    with pytest.raises(SetupError, match=r"half\.json: the file: Invalid JSON"):
        Catalogue.load(tmp_path / "half.json")


def test_the_documents_count_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    files = CATALOGUE.choices(formats=["gguf"])
    known = sum(choice.variant.sha256 is not None for choice in files)
    assert f"knows the hashes of {known} of its {len(files)} GGUF files" in page
