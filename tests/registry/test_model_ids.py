"""One content has one id whatever the order, no two have the same, and a name means one model or says which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from swarm.registry.catalogue import Catalogue
from swarm.registry.model_ids import AmbiguousModel, NameClaim, NamesOfCatalogue, assign_ids, meant

NAMES = NamesOfCatalogue(Catalogue.load())

digests = some.text("0123456789abcdef", min_size=64, max_size=64) | some.sampled_from(["a" * 64, "a" * 63 + "b"])
claims = some.lists(
    some.builds(
        NameClaim,
        name=some.sampled_from(["qwen", "qwen@aaaaaa", "qwen3-4b", "llama", "qwen@aaaaaa-bbbbbb"]),
        rank=some.integers(0, 2),
        fingerprint=digests,
        content=some.sampled_from(["", "b" * 64, "c" * 64]),
    ),
    max_size=12,
    unique=True,
)


@given(claims, some.randoms())
def test_ids_are_unique_and_the_same_in_any_order(found: list[NameClaim], dice: object) -> None:
    ids = assign_ids(found)
    assert set(ids) == set(found)
    assert len(set(ids.values())) == len(found)
    shuffled = list(found)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis's own Random
    assert assign_ids(shuffled) == ids
    for claim, id_ in ids.items():
        assert id_ == claim.name or id_.startswith(f"{claim.name}@{claim.fingerprint[:6]}")
    for name in {claim.name for claim in found}:
        first = min(claim for claim in found if claim.name == name)
        assert ids[first] == name, "the first of a name keeps it"


@given(claims, claims)
def test_what_comes_later_takes_no_name_of_a_better_place(ours: list[NameClaim], theirs: list[NameClaim]) -> None:
    own = [NameClaim(claim.name, 0, claim.fingerprint, claim.content) for claim in ours]
    others = [NameClaim(claim.name, 1 + claim.rank, claim.fingerprint, claim.content) for claim in theirs]
    plain = {claim for claim, id_ in assign_ids(own).items() if id_ == claim.name}
    assert plain <= {claim for claim, id_ in assign_ids([*own, *others]).items() if id_ == claim.name}


def test_a_second_content_is_told_apart_by_its_fingerprint() -> None:
    first = NameClaim("qwen3-4b-q4_k_m", 1, "f" * 64)
    second = NameClaim("qwen3-4b-q4_k_m", 2, "a1b2c3" + "0" * 58)
    assert assign_ids([second, first]) == {first: "qwen3-4b-q4_k_m", second: "qwen3-4b-q4_k_m@a1b2c3"}


@pytest.mark.parametrize(
    ("stem", "id_"),
    [
        ("My-Model.Q4_K_M", "my-model.q4_k_m"),
        ("tiny", "tiny"),
        ("demo", "demo.gguf"),
        ("Qwen3", "qwen3.gguf"),
        ("qwen3:4b:q4_k_m", "qwen3:4b:q4_k_m.gguf"),
        ("hf:x", "hf:x"),
        ("bell\x07", "bell?"),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_file_has_its_name_where_that_means_nothing_else(stem: str, id_: str) -> None:
    assert NAMES.id_of_stem(stem).replace("\ufffd", "?") == id_


KNOWN = {
    "qwen3:8b:q4_k_m": ("hf:unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M"),
    "qwen3:4b": ("qwen3:4b",),
    "llama-3.2-3b-instruct-q4_k_m": ("llama3.2:3b", "Llama-3.2-3B"),
    "llama-3.2-3b-instruct-q4_k_m@a1b2c3": ("other.gguf",),
    "swallow": ("hf:one/file-large/x.gguf", "hf:two/repo/y.gguf"),
}


@pytest.mark.parametrize(
    ("name", "strict", "loose"),
    [
        ("qwen3:4b", "qwen3:4b", "qwen3:4b"),
        (" QWEN3:4B ", "qwen3:4b", "qwen3:4b"),
        ("qwen3:8b", "qwen3:8b:q4_k_m", "qwen3:8b:q4_k_m"),
        ("qwen3:8", None, "qwen3:8b:q4_k_m"),
        ("qwen3-8b", "qwen3:8b:q4_k_m", "qwen3:8b:q4_k_m"),
        ("qwen3", AmbiguousModel, AmbiguousModel),
        ("llama3.2", "llama-3.2-3b-instruct-q4_k_m", "llama-3.2-3b-instruct-q4_k_m"),
        ("Llama3.2:3B", "llama-3.2-3b-instruct-q4_k_m", "llama-3.2-3b-instruct-q4_k_m"),
        ("llama-3.2-3b-instruct-q4_k_m", "llama-3.2-3b-instruct-q4_k_m", "llama-3.2-3b-instruct-q4_k_m"),
        ("llama-3.2-3b-instruct", AmbiguousModel, AmbiguousModel),
        ("other", "llama-3.2-3b-instruct-q4_k_m@a1b2c3", "llama-3.2-3b-instruct-q4_k_m@a1b2c3"),
        ("sw", None, "swallow"),
        ("hf:one/file", None, None),
        ("hf:two/repo", "swallow", "swallow"),
        ("swarm", None, None),
        ("gpt-4o-mini", None, None),
        ("", None, None),
        ("  ", None, None),
    ],
)
def test_a_name_means_what_it_says(
    name: str, strict: str | type[AmbiguousModel] | None, loose: str | type[AmbiguousModel] | None
) -> None:
    for is_loose, expected in ((False, strict), (True, loose)):
        if expected is AmbiguousModel:
            with pytest.raises(AmbiguousModel, match=r" may be .* or .*: give one of them"):
                meant(name, KNOWN, loose=is_loose)
        else:
            assert meant(name, KNOWN, loose=is_loose) == expected, is_loose


words = some.text("ab:-@._AB ", max_size=6)
known_names = some.dictionaries(words.filter(str.strip), some.lists(words, max_size=3), max_size=6)


@given(words, known_names, some.booleans())
def test_a_name_never_means_a_model_that_is_not_called_so(name: str, known: dict[str, list[str]], loose: bool) -> None:
    wanted = name.strip().casefold()
    called = {id_: [text.strip().casefold() for text in (id_, *others)] for id_, others in known.items()}
    beginning = {id_ for id_, texts in called.items() if wanted and any(text.startswith(wanted) for text in texts)}
    ambiguous: tuple[str, ...] = ()
    found: str | None = None
    try:
        found = meant(name, known, loose=loose)
    except AmbiguousModel as error:
        ambiguous = error.ids
    if ambiguous:
        assert len(ambiguous) > 1
        assert set(ambiguous) <= beginning
        assert name not in known
    elif name in known:
        assert found == name
    elif found is None:
        assert not any(wanted in texts for texts in called.values()) or not wanted
        assert not loose or not beginning or "/" in wanted
    else:
        assert found in beginning
        whole = {id_ for id_, texts in called.items() if wanted in texts}
        assert found in whole or (not whole and (not loose or beginning == {found}))


def test_of_many_that_fit_some_are_named() -> None:
    with pytest.raises(AmbiguousModel, match=r"'m' may be m-00 or .* or m-07 or 12 more: give one of them"):
        meant("m", {f"m-{number:02d}": () for number in range(20)}, loose=False)
