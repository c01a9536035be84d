"""What ballots weigh: measured log odds, clipped, discounted for samples of one model; and their file."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.consensus.options import KINDS, Strategy
from swarm.consensus.weights import EQUAL, MAX_RATIO, VoterSource, VoterWeights, ballot_weights, log_odds
from swarm.errors import SetupError
from swarm.registry.weights_file import MAX_FILE_BYTES, Measured, Measurements, add_weights, merged, read_weights

GOOD, FAIR, GUESSING, WRONG = Measured(45, 50), Measured(29, 50), Measured(8, 48), Measured(2, 50)
MEASURED: Measurements = {
    "good": {"number": GOOD},
    "fair": {"number": FAIR},
    "wrong": {"number": WRONG},
    "other kind": {"json": GOOD},
}


def test_log_odds_of_what_was_measured() -> None:
    p = (29 + 2) / (50 + 4)
    assert log_odds(FAIR) == pytest.approx(math.log(p * 4 / (1 - p)))
    assert log_odds(Measured(0, 0, options=2)) == 0
    assert log_odds(GUESSING) <= 0


@pytest.mark.parametrize(
    ("strategy", "models", "basis"),
    [
        (Strategy.AUTO, ["good", "fair"], "measured"),
        (Strategy.AUTO, ["good", "other kind"], "equal"),
        (Strategy.AUTO, ["good", "never measured"], "equal"),
        (Strategy.MEDOID, ["good", "fair"], "measured"),
        (Strategy.JUDGE, ["good", "fair"], "measured"),
        (Strategy.WEIGHTED, ["good", "never measured"], "measured"),
        (Strategy.WEIGHTED, ["never measured", "other kind"], "equal"),
        (Strategy.MAJORITY, ["good", "fair"], "equal"),
        (Strategy.AUTO, ["wrong", "wrong"], "equal"),  # somebody must be asked, and all are alike
        (Strategy.AUTO, [], "equal"),
    ],
)
def test_which_weights_a_strategy_uses(strategy: Strategy, models: list[str], basis: str) -> None:
    weights = ballot_weights(strategy, MEASURED, models)
    assert weights.basis("number") == basis
    if basis == "equal":
        assert {weights.of(model, "number") for model in models} <= {1}


def test_a_model_that_was_not_measured_is_taken_to_be_right_half_of_the_time() -> None:
    weights = ballot_weights(
        Strategy.WEIGHTED, {"good": {"number": GOOD}, "even": {"number": Measured(23, 46)}}, ["good", "new"]
    )
    both = ballot_weights(
        Strategy.WEIGHTED, {"good": {"number": GOOD}, "even": {"number": Measured(23, 46)}}, ["good", "even"]
    )
    assert weights.of("new", "number") == both.of("even", "number")


def test_a_model_no_better_than_a_guess_has_no_vote() -> None:
    weights = ballot_weights(Strategy.AUTO, MEASURED, ["good", "wrong"])
    assert (weights.of("wrong", "number"), weights.of("good", "number")) == (0, 1)


def test_one_model_alone_weighs_one_however_often_it_is_asked() -> None:
    weights = ballot_weights(Strategy.AUTO, MEASURED, ["fair"] * 7)
    assert weights.of("fair", "number") == 1


def test_samples_of_one_model_count_for_less_where_other_models_vote() -> None:
    alike: Measurements = {"a": {"number": FAIR}, "b": {"number": FAIR}}
    weights = ballot_weights(Strategy.AUTO, alike, ["a", "a", "a", "b"])
    together = 3 * weights.of("a", "number")
    assert float(together / weights.of("b", "number")) == pytest.approx(3 / (1 + 2 * 0.5), rel=1e-3)


def test_a_replacement_that_was_not_planned_weighs_as_little_as_any() -> None:
    weights = ballot_weights(Strategy.AUTO, MEASURED, ["good", "fair", "wrong"])
    assert weights.of("stranger", "number") == weights.of("fair", "number")
    assert weights.of("stranger", "json") == 1


def test_what_is_outstanding_is_bounded_by_the_heaviest_that_it_may_be() -> None:
    weights = VoterWeights(
        {"number": {"a": Fraction(1, 2), "b": Fraction(3)}, "choice": {"a": Fraction(2), "b": Fraction(1)}}
    )
    assert weights.outstanding(["a", "b"], ("number", "choice")) == 5
    assert weights.outstanding([None], ("number",)) == 3
    assert weights.outstanding([None, "a"], ("text",)) == 2
    assert weights.outstanding(["a", None], ()) == 2
    assert EQUAL.outstanding([None] * 4, KINDS) == 4


counts = st.integers(0, 60).flatmap(
    lambda asked: st.builds(Measured, st.integers(0, asked), st.just(asked), st.integers(2, 6))
)
pools = st.dictionaries(st.sampled_from("abcdef"), counts, min_size=1)


@given(pool=pools, data=st.data())
def test_weights_are_bounded_and_average_one(pool: dict[str, Measured], data: st.DataObject) -> None:
    models = [model for model in pool for _ in range(data.draw(st.integers(1, 4)))]
    weights = ballot_weights(Strategy.AUTO, {model: {"number": measured} for model, measured in pool.items()}, models)
    voting = [weight for model in models if (weight := weights.of(model, "number"))]
    assert voting, "somebody always has a vote"
    assert float(sum(voting) / len(voting)) == pytest.approx(1, abs=1e-3)
    better = sorted(pool, key=lambda model: log_odds(pool[model]))
    once = ballot_weights(Strategy.AUTO, {model: {"number": measured} for model, measured in pool.items()}, list(pool))
    in_order = [once.of(model, "number") for model in better]
    assert in_order == sorted(in_order)
    assert max(in_order) <= MAX_RATIO * min(weight for weight in in_order if weight) + Fraction(1, 100)


KITCHEN, ATTIC, LIAR = VoterSource("good", "kitchen"), VoterSource("good", "attic"), VoterSource("good", "liar")


@pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.WEIGHTED, Strategy.MAJORITY, Strategy.CONFIDENT])
def test_a_node_that_guesses_has_no_say_whatever_model_it_names(strategy: Strategy) -> None:
    for measured in (MEASURED, {}):  # also where nobody else was measured, and all others weigh alike
        weights = ballot_weights(strategy, measured, [KITCHEN, ATTIC, LIAR], own={LIAR: {"number": WRONG}})
        assert (weights.of(LIAR, "number"), weights.of(KITCHEN, "number"), weights.of(ATTIC, "number")) == (0, 1, 1)
        assert weights.of(LIAR, "json") == 1, "only at what it was measured at"


def test_a_node_goes_before_its_model_and_others_weigh_what_their_model_does() -> None:
    own = {KITCHEN: {"number": Measured(49, 50)}}
    weights = ballot_weights(Strategy.AUTO, MEASURED, [KITCHEN, ATTIC, VoterSource("fair", "study")], own=own)
    kitchen, attic, study = (weights.of(who, "number") for who in (KITCHEN, ATTIC, VoterSource("fair", "study")))
    assert kitchen > attic > study
    assert attic == weights.of("good", "number") == weights.of(LIAR, "number"), "as any node that was not measured"
    assert weights.at_most("good", ("number",)) == kitchen, "of an unknown node of that model"
    assert weights.at_most(None, ("number",)) == kitchen


def test_a_liar_takes_nothing_from_those_whose_model_it_names() -> None:
    others = [KITCHEN, ATTIC, VoterSource("fair", "study")]
    own = {LIAR: {"number": WRONG}}
    alone = ballot_weights(Strategy.AUTO, MEASURED, others)
    beside = ballot_weights(Strategy.AUTO, MEASURED, [*others, LIAR, LIAR], own=own)
    assert [beside.of(who, "number") for who in others] == [alone.of(who, "number") for who in others]


def test_of_guessing_nodes_alone_somebody_has_to_be_heard() -> None:
    weights = ballot_weights(Strategy.AUTO, {}, [LIAR, LIAR], own={LIAR: {"number": WRONG}})
    assert weights.of(LIAR, "number") == 1


def test_counts_of_nodes_are_kept_beside_those_of_models(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    add_weights(path, {"demo": {"number": FAIR}})
    assert "nodes" not in json.loads(path.read_text()), "as it was before there were any"
    for _ in range(2):
        total = add_weights(path, {}, {"id-a": {"aa": {"number": WRONG}}})
    assert total == read_weights(path)
    assert (total.models, total.nodes) == ({"demo": {"number": FAIR}}, {"id-a": {"aa": {"number": Measured(4, 100)}}})


def test_counts_add_up_per_model_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "weights.json"
    assert not read_weights(path)
    add_weights(path, {"demo": {"number": Measured(29, 50)}})
    total = add_weights(path, {"demo": {"number": Measured(1, 10, 4), "json": GOOD}, "big": {"text": FAIR}})
    assert total == read_weights(path)
    assert total.models == {"big": {"text": FAIR}, "demo": {"json": GOOD, "number": Measured(30, 60, 4)}}
    assert json.loads(path.read_text())["version"] == 1
    assert merged(total.models, {}) == total.models


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"version": 2, "models": {}}',
        '{"version": 1, "models": {"demo": {"number": {"correct": 9, "asked": 5, "options": 5}}}}',
        '{"version": 1, "models": {"demo": {"number": {"correct": 1, "asked": 5, "options": 1}}}}',
        '{"version": 1, "models": {"demo": {"number": {"correct": -1, "asked": 5}}}}',
        " " * (MAX_FILE_BYTES + 1),
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_named_with_the_remedy_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.json"
    path.write_text(content)
    for use in (lambda: read_weights(path), lambda: add_weights(path, {"demo": {"number": FAIR}})):
        with pytest.raises(SetupError, match=r"weights\.json.*swarm bench votes --save-weights"):
            use()
    assert path.read_text() == content


def test_a_file_that_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read"):
        read_weights(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot"):
        add_weights(tmp_path / "file" / "weights.json", {"demo": {"number": FAIR}})
