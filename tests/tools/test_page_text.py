"""Web pages as text: what a person would read, nothing that is hidden from people, and an end for every page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.tools import page_text as module
from swarm.tools.page_text import MOST_TEXT_CHARS, page_text

HERE = "https://site.org/docs/page.html"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("", ""),
        ("just words", "just words"),
        ("a  \n\t b", "a b"),
        ("<b>one</b><i>word</i> and <b> another </b>", "oneword and another"),
        ("<title>T</title><p>x", "Title: T\n\nx"),
        ("<h1>A <em>b</em></h1><h3>c</h3>d", "# A b\n\n### c\n\nd"),
        ("<p>one<p>two</p>three", "one\n\ntwo\n\nthree"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<ul><li>a<li>b</ul>", "- a\n- b"),
        ("<pre>a\n  b &lt;\n</pre>c", "a\n  b <\n\nc"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a | b\n1 | 2"),
        ("<dl><dt>a<dd>b<dt>c<dd>d</dl>", "a\n\nb\n\nc\n\nd"),
        ("<img alt='a cat'><img>", "[image: a cat]"),
        ("&copy; &#x41;&amp;amp; &nosuch;", "© A&amp; &nosuch;"),
        ("<p>a</b></i></p>b", "a\n\nb"),
        ("a</p>b", "a\n\nb"),
    ],
)
def test_what_stands_where(page: str, text: str) -> None:
    assert page_text(page) == text


@pytest.mark.parametrize(
    ("link", "text"),
    [
        ("<a href='/x'>w</a>.", "w <https://site.org/x>."),
        ("<a href='y.html?a=1&amp;b=2'>w</a>", "w <https://site.org/docs/y.html?a=1&b=2>"),
        ("<a href='//e.org/'>w</a>", "w <https://e.org/>"),
        ("<a href='https://e.org/'>https://e.org/</a>", "https://e.org/"),
        ("<a href='#top'>w</a>", "w"),
        ("<a href='page.html#top'>w</a>", "w"),
        ("<a href='javascript:alert(1)'>w</a>", "w"),
        ("<a href='mailto:a@b'>w</a>", "w"),
        ("<a href='data:text/html,x'>w</a>", "w"),
        ("<a href='http://[::1'>w</a>", "w"),
        ("<a href>w</a>", "w"),
        ("<a href='/x'></a>", ""),
        (f"<a href='/{'x' * 600}'>w</a>", "w"),
        ("<a href='/1'>one <a href='/2'>two", "one <https://site.org/1> two"),
        ("<a href='/x'><h2>w</h2></a>", "## w\n\n<https://site.org/x>"),
    ],
)
def test_links_stand_after_their_words(link: str, text: str) -> None:
    assert page_text(link, HERE) == text


@pytest.mark.parametrize(
    "hidden",
    [
        "<script>if (a < b) { secret }</script>",
        "<style>.secret{}</style>",
        "<template><p>secret</template>",
        "<noscript>secret</noscript>",
        "<svg><text>secret</text></svg>",
        "<nav><ul><li>secret</ul></nav>",
        "<div hidden>secret <b>secret</b></div>",
        "<p style='Display : NONE'>secret</p>",
        "<p style='color:red;visibility:hidden'>secret</p>",
        "<span aria-hidden=true>secret</span>",
        "<div hidden><p>secret<p>secret</div>",
        "<!-- secret -->",
        "<p hidden>secret",
    ],
)
def test_what_people_do_not_see_is_not_read(hidden: str) -> None:
    """Pages tell machines that read them what to do in such places."""
    assert page_text(f"<p>before</p>{hidden}<p>after</p>") == "before\n\nafter"


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                "<p>", "</p>", "<a href='/x'>", "</a>", "<pre>", "</pre>", "<li>", "<td>", "<tr>", "<table>",
                "</table>", "<script>", "</script>", "<div hidden>", "</div>", "<br>", "words", " ", "\n", "&lt;", "<",
                "<!--", "-->",
                "<h1>", "</h1>", "<svg/>", "<img alt=x>", "</", "<![CDATA[", "<?x", "é",
            ]
        ),
        max_size=60,
    )
)  # fmt: skip
def test_every_page_has_a_text_without_double_blank_lines(parts: list[str]) -> None:
    text = page_text("".join(parts), HERE)
    assert text == text.strip()
    assert "\n\n\n" not in text.replace(" ", "") or "<pre>" in parts


def test_deep_pages_are_read() -> None:
    assert page_text("<div>" * 5000 + "deep" + "</div>" * 5000) == "deep"


def test_the_file_runs_by_itself() -> None:
    """As a process without this project's packages, and without the environment."""
    command = [sys.executable, "-I", "-S", str(Path(module.__file__)), HERE]
    page = "<a href='/x'>grün</a>".encode()
    done = subprocess.run(command, input=page, capture_output=True, env={}, check=True, timeout=60)
    assert done.stdout.decode() == "grün <https://site.org/x>"
    assert done.stderr == b""


def test_a_page_cannot_say_many_times_what_it_is_long() -> None:
    """Short links beside a long address of the page become long ones."""
    address = f"https://site.org/{'b' * 400}/"
    page = "".join(f"<a href={number}>w</a>" for number in range(20_000))
    command = [sys.executable, "-I", "-S", str(Path(module.__file__)), address]
    done = subprocess.run(command, input=page.encode(), capture_output=True, env={}, check=True, timeout=60)
    assert len(page_text(page, address)) > 4 * MOST_TEXT_CHARS
    assert len(done.stdout.decode()) == MOST_TEXT_CHARS
