"""Pages of an index in both forms, and which of their files is for a machine."""

from __future__ import annotations

import json

import pytest
from packaging.tags import Tag

from swarm.commands.engine_index import IndexFailed, IndexFile, best_file, find_wheel, read_page, size_of
from tests.doubles.wheel_index import WheelIndex, serving

URL = "https://index.example/whl/cu128/xllamacpp/"
TAGS = (Tag("cp311", "cp311", "manylinux_2_35_x86_64"), Tag("cp310", "abi3", "manylinux_2_35_x86_64"))


def wheels(*names: str) -> list[tuple[IndexFile, str | None]]:
    return [(IndexFile(name, URL + name, ""), None) for name in names]


def test_both_forms_of_a_page_say_the_same() -> None:
    html = (
        f'<a href="../../files/a-1.0-py3-none-any.whl#sha256={"ab" * 32}" data-requires-python="&gt;=3.10">a</a>'
        '<a href="b%2Bcu128-1.0-py3-none-any.whl" data-yanked="">b</a><a>nowhere</a>'
    )
    entry = {
        "filename": "a-1.0-py3-none-any.whl",
        "url": "../../files/a-1.0-py3-none-any.whl",
        "requires-python": ">=3.10",
    }
    files = [{**entry, "hashes": {"sha256": "ab" * 32}, "size": 7}, {**entry, "yanked": "broken"}]
    (as_html, wanted), *_ = read_page(html, "text/html; charset=utf-8", URL)
    [(as_json, also_wanted)] = read_page(json.dumps({"files": files}), "application/vnd.pypi.simple.v1+json", URL)
    assert (wanted, also_wanted) == (">=3.10", ">=3.10")
    assert as_html == IndexFile(
        "a-1.0-py3-none-any.whl", "https://index.example/whl/files/a-1.0-py3-none-any.whl", "", "ab" * 32
    )
    assert (as_json.url_with_hash, as_json.size_bytes) == (as_html.url_with_hash, 7)


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"files": 1}', '{"files": [1]}', '{"files": [{}]}', "[" * 100_000])
def test_what_is_no_page_is_said(body: str) -> None:
    with pytest.raises(IndexFailed, match="is no page of an index"):
        read_page(body, "application/vnd.pypi.simple.v1+json", URL)


@pytest.mark.parametrize(
    ("names", "version", "best"),
    [
        (["xllamacpp-2026.9.1", "xllamacpp-2026.10.2", "xllamacpp-2026.10.1"], None, "xllamacpp-2026.10.2"),
        (["xllamacpp-2026.10.2", "xllamacpp-2026.10.1"], "2026.10.1", "xllamacpp-2026.10.1"),
        (["xllamacpp-2026.10.1+cu128", "xllamacpp-2026.10.2"], "2026.10.1", "xllamacpp-2026.10.1+cu128"),
        (["xllamacpp-2026.10.2"], "2026.10.1", "xllamacpp-2026.10.2"),  # another is better than none: it is tried
        (["other-2026.10.2", "xllamacpp"], None, None),
    ],
)
def test_the_version_that_the_node_has_comes_first_and_then_the_newest(
    names: list[str], version: str | None, best: str | None
) -> None:
    files = wheels(*(f"{name}-cp310-abi3-manylinux_2_35_x86_64.whl" for name in names))
    found = best_file(files, "xllamacpp", version, TAGS)
    assert (found and found.name) == (best and f"{best}-cp310-abi3-manylinux_2_35_x86_64.whl")


def test_the_wheel_for_this_very_python_comes_before_one_for_several_and_others_are_none() -> None:
    files = wheels(
        "xllamacpp-1.0-cp310-abi3-manylinux_2_35_x86_64.whl",
        "xllamacpp-1.0-cp311-cp311-manylinux_2_35_x86_64.whl",
        "xllamacpp-2.0-cp311-cp311-win_amd64.whl",
        "xllamacpp-2.0.tar.gz",
        "xllamacpp-3.0-not-a-wheel",
    )
    found = best_file(files, "xllamacpp", None, TAGS)
    assert found is not None
    assert (found.name, found.version) == ("xllamacpp-1.0-cp311-cp311-manylinux_2_35_x86_64.whl", "1.0")
    file = files[0][0]
    assert best_file([(file, ">=99")], "xllamacpp", None, TAGS) is None
    assert best_file([(file, "nonsense")], "xllamacpp", None, TAGS) is not None


def test_a_size_that_nobody_tells_is_not_known() -> None:
    with serving(WheelIndex()) as index:
        index.add("whl/cu128", "xllamacpp", ("xllamacpp-1.0-py3-none-any.whl", b"x" * 1000))
        assert find_wheel(f"{index.url}/whl/cu128", "xllamacpp", None, 5).size_bytes == 1000
        assert size_of(f"{index.url}/files/gone.whl", 5) is None
        index.status = 500
        assert size_of(f"{index.url}/files/xllamacpp-1.0-py3-none-any.whl", 5) is None
        with pytest.raises(IndexFailed, match="answered 500"):
            find_wheel(f"{index.url}/whl/cu128", "xllamacpp", None, 5)
