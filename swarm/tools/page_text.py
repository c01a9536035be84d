"""A web page as text: what a person would read of it, with its headings, lists, tables and links. Pure.

Python's parser takes a time that grows with the square of some inputs: twenty thousand characters of `<a ` take it five
seconds. So the page of a stranger is read in a process of its own, which runs this file, needs nothing but the standard
library, and can be ended: a page in UTF-8 on its standard input, its address as the argument, the text on its output.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from urllib.parse import urljoin

MOST_CPU_S = 60  # of the process, whoever has forgotten it
MOST_MEMORY_BYTES = 1 << 30
MOST_LINK_CHARS = 500  # a longer address is a form that was sent, or data
MOST_TEXT_CHARS = 2_000_000  # what a page of 1 MB says; addresses of links can make it many times as long
MOST_OPEN = 512  # elements within each other; what is nested deeper stands in none

_UNREAD = frozenset(
    {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "audio", "video", "nav"}
)
_VOID = frozenset(
    {
        "area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "param", "source",
        "track", "wbr",
    }
)  # fmt: skip
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "dialog", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "html", "legend", "main", "ol", "p",
        "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul", "head", "select", "option", "textarea",
    }
)  # fmt: skip
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_ENDED_BY = {  # elements whose end may be left out: what beside them ends them
    "p": _BLOCKS | _HEADINGS.keys() | {"pre", "li", "hr"},
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "tr": {"tr", "tbody", "tfoot"},
    "td": {"td", "th", "tr", "tbody", "tfoot"},
    "th": {"td", "th", "tr", "tbody", "tfoot"},
    "option": {"option", "optgroup"},
}
_HIDING = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n\f\v\xa0\u200b]+")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n")


class _PageReader(HTMLParser):
    """Collects the text. `unread` counts the open elements that nobody is shown."""

    def __init__(self, address: str) -> None:
        super().__init__(convert_charrefs=True)
        self._address = address
        self._said: list[str] = []
        self._line_begun = False  # something stands on the line
        self._space_due = False
        self._open: list[tuple[str, bool]] = []  # the elements that are open, and whether each is unread
        self._unread = 0
        self._verbatim = 0
        self._link: str | None = None
        self._link_from = 0
        self._cells = 0

    # What the parser calls

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if self._open and tag in _ENDED_BY.get(self._open[-1][0], ()):
            self._close(len(self._open) - 1)
        if tag not in _VOID and len(self._open) < MOST_OPEN:
            unread = tag in _UNREAD or _is_hidden(given)
            self._open.append((tag, unread))
            self._unread += unread
        if self._unread:
            return
        self._begin(tag, given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)  # to a browser `<p/>` is `<p>`

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == tag:
                self._close(place)
                return
        if tag == "p":
            self._paragraph()

    def handle_data(self, data: str) -> None:
        if self._unread:
            return
        if self._verbatim:
            self._say(data)
            return
        text = _SPACES.sub(" ", data)
        if text.startswith(" "):
            self._space_due = True
            text = text[1:]
        if not text:
            return
        ends_in_space = text.endswith(" ")
        self._say(text.rstrip(" "))
        self._space_due = ends_in_space

    # What follows

    def _begin(self, tag: str, given: dict[str, str | None]) -> None:
        match tag:
            case "br":
                self._new_line()
            case "hr":
                self._paragraph()
            case "title":
                self._paragraph()
                self._say("Title: ")
            case "pre":
                self._paragraph()
                self._verbatim += 1
            case "li":
                self._new_line()
                self._say("- ")
            case "td" | "th":
                if self._cells:
                    self._say(" | ")
                self._cells += 1
            case "tr":
                self._new_line()
                self._cells = 0
            case "a":
                self._begin_link(given.get("href"))
            case "img":
                if words := _SPACES.sub(" ", given.get("alt") or "").strip():
                    self._say(f"[image: {words}]")
            case _ if tag in _HEADINGS:
                self._paragraph()
                self._say(f"{_HEADINGS[tag]} ")
            case _ if tag in _BLOCKS:
                self._paragraph()
            case _:
                pass

    def _close(self, place: int) -> None:
        """End the open element at `place`, and all within it."""
        for tag, unread in reversed(self._open[place:]):
            if unread:
                self._unread -= 1
            elif not self._unread:
                self._end(tag)
        del self._open[place:]

    def _end(self, tag: str) -> None:
        if tag == "a":
            self._end_link()
        elif tag == "pre":
            self._verbatim = max(0, self._verbatim - 1)
            self._paragraph()
        elif tag in ("li", "tr"):
            self._new_line()
        elif tag in _HEADINGS or tag in _BLOCKS or tag == "title":
            self._paragraph()

    def _begin_link(self, href: str | None) -> None:
        self._end_link()
        try:
            to = urljoin(self._address, (href or "").strip())
        except ValueError:
            to = ""
        if not to.startswith(("http://", "https://")) or len(to) > MOST_LINK_CHARS:
            return
        if to.partition("#")[0] == self._address.partition("#")[0]:
            return
        self._link, self._link_from = to, len(self._said)

    def _end_link(self) -> None:
        to, self._link = self._link, None
        if to is None:
            return
        words = "".join(self._said[self._link_from :])
        if not words.strip() or words.strip() == to:
            return
        space_due, self._space_due = self._space_due, False
        self._say(f" <{to}>" if self._line_begun else f"<{to}>")
        self._space_due = space_due

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._space_due and self._line_begun:
            self._said.append(" ")
        self._space_due = False
        self._said.append(text)
        self._line_begun = not text.endswith("\n")

    def _new_line(self) -> None:
        self._space_due = False
        if self._line_begun:
            self._said.append("\n")
            self._line_begun = False

    def _paragraph(self) -> None:
        self._new_line()
        self._said.append("\n")

    def text(self) -> str:
        """All that was said, without blank lines at its ends or two in a row."""
        return _BLANK_LINES.sub("\n\n", "".join(self._said)).strip()


def _is_hidden(given: dict[str, str | None]) -> bool:
    """Whether people do not see the element: what is written there is for machines that read pages."""
    return "hidden" in given or given.get("aria-hidden") == "true" or bool(_HIDING.search(given.get("style") or ""))


def page_text(page: str, address: str = "") -> str:
    """What a person would read of an HTML page. Links that lead elsewhere stand after their words, as `<https://...>`.

    Takes a time that may grow with the square of the page: see above.
    """
    reader = _PageReader(address)
    reader.feed(page)
    reader.close()
    return reader.text()


def main() -> None:
    """Read a page from the standard input, and write its text."""
    try:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    except (ImportError, ValueError, OSError):
        pass
    page = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    text = page_text(page, sys.argv[1] if len(sys.argv) > 1 else "")
    sys.stdout.buffer.write(text[:MOST_TEXT_CHARS].encode("utf-8", errors="replace"))


if __name__ == "__main__":
    main()
