"""Which replicas may answer for a name."""

from __future__ import annotations

import pytest

from swarm.errors import UnknownModel
from swarm.routing.replicas import SWARM_ALIAS, Replica, able, model_names


def replica(model: str, params: int | None, slots: int = 1) -> Replica:
    return Replica(f"node-of-{model}", f"node-of-{model}", model, slots, slots, params=params)


def test_a_name_means_that_model_only() -> None:
    small, large = replica("small", 1), replica("large", 100)
    assert able("small", [small, large]) == (small,)


def test_an_unknown_name_lists_what_there_is_and_the_alias() -> None:
    with pytest.raises(UnknownModel, match=r"model 'gpt' is not served here; available: a, b, swarm") as caught:
        able("gpt", [replica("b", 1), replica("a", 1), replica("a", 1)])
    assert caught.value.known == ("a", "b", "swarm")


def test_without_any_model_the_alias_is_unknown_too_and_says_why() -> None:
    with pytest.raises(UnknownModel, match="no node has loaded a model yet"):
        able(SWARM_ALIAS, [])
    with pytest.raises(UnknownModel, match="available: none"):
        able("x", [])


def test_every_model_is_named_once() -> None:
    assert model_names([replica("b", 1), replica("a", 1), replica("b", 1)]) == ("a", "b")
