"""How large a model is by its name: this node's own, the embedded ones', the catalogue's, and nobody's word."""

from __future__ import annotations

import pytest

from swarm.registry.catalogue import Catalogue
from swarm.registry.embedded import embedded_model_path
from swarm.registry.gguf_header import read_gguf
from swarm.registry.known_sizes import EMBEDDED_PARAMS, checked_params, refutes
from swarm.registry.names import EMBEDDED_NAMES


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("demo", EMBEDDED_PARAMS),
        ("demo:b", EMBEDDED_PARAMS),
        ("llama3.3:70b:q4_k_m", 70_600_000_000),
        ("llama3.3:70b", 70_600_000_000),
        ("qwen_qwen3-32b-q4_k_m", 32_800_000_000),
        ("my-own", None),
        ("", None),
        ("demo:d", None),
    ],
)
def test_the_size_of_a_name(name: str, params: int | None) -> None:
    assert checked_params(name) == params


def test_this_nodes_own_files_come_first() -> None:
    assert checked_params("my-own", {"my-own": 5}) == 5
    assert checked_params("demo", {"demo": 5}) == 5


@pytest.mark.parametrize("name", EMBEDDED_NAMES)
def test_the_embedded_models_are_as_large_as_is_said(name: str) -> None:
    assert read_gguf(embedded_model_path(name)).params == EMBEDDED_PARAMS


def test_every_model_of_the_catalogue_is_known() -> None:
    assert [choice.id for choice in Catalogue.load().choices() if checked_params(choice.id) is None] == []


@pytest.mark.parametrize(
    ("told", "checked", "refuted"),
    [(None, 5, False), (5, None, False), (8_030, 8_000, False), (10_000, 8_000, False), (10_001, 8_000, True),
     (6_400, 8_000, False), (6_399, 8_000, True), (10**15, 2_166_720, True)],
)  # fmt: skip
def test_what_a_peer_says_is_held_against_what_is_known(told: int | None, checked: int | None, refuted: bool) -> None:
    assert refutes(told, checked) is refuted
