"""The page's files: types, lint, units, their size, and what must not be in them. npm's packages are for tests only."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm.registry.model_memory import GIB, MIB, size_text
from tests.doubles.npm_packages import npm_packages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STATIC = ROOT / "swarm/gateway/page/static"
SHIPPED = sorted(path for path in STATIC.rglob("*") if path.suffix in {".js", ".css", ".html", ".svg"})
OWN = [path for path in SHIPPED if "vendor" not in path.parts]
MOST_BYTES, MOST_COMPRESSED_BYTES = 350 * 1024, 120 * 1024
TOOL_S = 120.0  # a second alone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This folder's tools and settings, with the packages beside them, as an editor would have it."""
    folder = tmp_path_factory.mktemp("page") / "tests" / "page"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    (folder / "node_modules").symlink_to(npm_packages(HERE / "package.json"))
    (folder.parents[1] / "swarm/gateway/page").mkdir(parents=True)
    shutil.copytree(STATIC, folder.parents[1] / "swarm/gateway/page/static")
    return folder


def run(place: Path, command: Sequence[str]) -> str:
    """What a tool says; it must succeed."""
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=TOOL_S, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-6000:]
    return said


def test_types_hold(place: Path) -> None:
    run(place, ["node_modules/.bin/tsc", "--project", "."])


def test_the_linter_and_the_formatter_have_nothing_to_say(place: Path) -> None:
    run(place, ["node_modules/.bin/biome", "check", "--config-path=.", "../../swarm/gateway/page/static/js", "."])


def test_units(place: Path) -> None:
    tests = sorted(str(path.relative_to(place)) for path in (place / "unit").glob("*.test.mjs"))
    run(place, ["node", "--test", *tests])


def test_sizes_are_told_as_the_node_tells_them(place: Path) -> None:
    sizes = [MIB, MIB + 1, 700 * MIB, GIB - 1, GIB, 5 * GIB // 4, 7 * GIB // 4, 4_700_000_000, 24 * 10**9, 3 * 2**40]
    script = f"""import {{ bytes }} from "../../swarm/gateway/page/static/js/format.js";
        process.stdout.write(JSON.stringify({sizes}.map(bytes)));"""
    assert json.loads(run(place, ["node", "--input-type=module", "--eval", script])) == [
        size_text(one) for one in sizes
    ]


def test_it_is_small() -> None:
    whole = sum(path.stat().st_size for path in SHIPPED)
    compressed = sum(len(gzip.compress(path.read_bytes(), 9)) for path in SHIPPED)
    assert whole <= MOST_BYTES
    assert compressed <= MOST_COMPRESSED_BYTES


def test_other_peoples_code_is_what_the_manifest_says() -> None:
    vendor = STATIC / "vendor"
    manifest = json.loads((vendor / "vendored.json").read_text())
    listed = {name: digest for library in manifest["libraries"] for name, digest in library["sha256"].items()}
    there = {path.relative_to(vendor).as_posix(): path for path in SHIPPED if "vendor" in path.parts}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == listed
    licences = (vendor / "LICENSES.txt").read_text()
    for library in manifest["libraries"]:
        assert f"{library['package']} {library['version']} ({library['license']})" in licences
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]
    for library in manifest["libraries"]:
        package = library["package"].replace("@highlightjs/cdn-assets", "highlight.js")
        assert pinned[package] == library["version"], "types are those of the version that is shipped"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_makes_elements_of_text_and_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySet|document\.write|\beval\(|new Function"
    assert not re.search(forbidden, text)
    addresses = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}  # the name of SVG
    assert not addresses
    if path.suffix == ".html":
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|<style", text)


@pytest.mark.parametrize("path", [path for path in OWN if path.suffix == ".js"], ids=lambda path: path.name)
def test_types_are_checked_and_words_are_in_one_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("// @ts-check\n")
    if path.name != "strings.js":
        assert not spoken(text), "what the page says is in strings.js"
        assert not sentences(text), "what the page says is in strings.js"


def spoken(text: str) -> list[str]:
    """Words between the tags of templates that are no values."""
    return [word for template in templates(text) for word in re.findall(r">[^<>]*?([A-Za-z]{2,})[^<>]*?<", template)]


def templates(text: str) -> list[str]:
    """What stands in html`...`, each value as one blank sign."""
    found: list[str] = []
    for start in (match.end() for match in re.finditer(r"html`", text)):
        depth, at, kept = 0, start, []
        while at < len(text):
            sign = text[at]
            if depth == 0 and sign == "`":
                break
            if text.startswith("${", at):
                depth, at = depth + 1, at + 2
                continue
            if depth and sign in "{}":
                depth += 1 if sign == "{" else -1
            elif depth == 0:
                kept.append(sign)
            at += 1
        found.append("".join(kept))
    return found


COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
EXPRESSION = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/")  # a regular one
QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\\\n]|\\.)*)\1""")
WORDS = re.compile(r"^(?!swarm |\().*[A-Za-z]{2,}[,:;]? [A-Za-z]{2,}", re.DOTALL)  # no command, no media query

UNREAD = re.compile(r"\b(?:class|kind|viewBox|transform)=$")  # attributes of which nobody reads the value


def sentences(text: str) -> list[str]:
    """Strings of several words in code, outside of templates' own text and of attributes that nobody reads."""
    found: list[str] = []

    def code(at: int, read: bool) -> int:
        """Reads on to the brace that closes, or the end."""
        depth, last = 0, ""
        while at < len(text):
            sign = text[at]
            if comment := COMMENT.match(text, at):
                at = comment.end()
                continue
            if sign == "`":
                at = template(at + 1, text[:at].endswith("html"), read)
            elif quoted := QUOTED.match(text, at):
                found.extend([quoted[2]] if read and WORDS.search(quoted[2]) else [])
                at = quoted.end()
            elif sign == "/" and not re.match(r"[\w)\]]", last) and (expression := EXPRESSION.match(text, at)):
                at = expression.end()
            else:
                if sign in "{}":
                    depth += 1 if sign == "{" else -1
                    if depth < 0:
                        return at + 1
                at += 1
            last = sign if sign.strip() else last
        return at

    def template(at: int, is_html: bool, read: bool) -> int:
        kept = ""
        while at < len(text) and text[at] != "`":
            if text.startswith("${", at):
                unread = is_html and UNREAD.search(kept)
                at, kept = code(at + 2, (is_html or read) and not unread), kept + "\0"
            else:
                step = 2 if text[at] == "\\" else 1
                kept, at = kept + text[at : at + step], at + step
        found.extend([kept] if read and not is_html and WORDS.search(kept) else [])
        return at + 1

    code(0, True)
    return found


def test_sentences_in_code_are_found() -> None:
    assert sentences("fail('it broke, sadly'); const a = `so ${b} it is ${c}`;") == [
        "it broke, sadly",
        "so \0 it is \0",
    ]
    html = (
        "html`<p class=${a ? 'row spread' : `card ${'turn user'}`} title=${'Read me'}>${b.map(() => html`${'or me'}`)}"
    )
    assert sentences(f"{html}</p>`") == ["Read me", "or me"]
    assert (
        sentences("// one two 'three four'\n/* 'a an' */ go('GET', '/v1', /['\"] two words/.exec(x)); b = c / 2;") == []
    )


def test_words_in_a_template_are_found() -> None:
    assert spoken("html`<p class=${a ? `x` : {b: 1}}>Hello ${name}</p>`") == ["Hello"]
    assert spoken("html`<p title=${STRINGS.a}>${STRINGS.b} · <b>${c}</b></p>`") == []
