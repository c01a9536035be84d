"""Where somebody types to `swarm chat`: several lines, a history that can be searched, completion, the bottom line.

The history holds what was typed, in a file of the user's alone; never an answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.styles import Style

from swarm.commands.chat_commands import completions

MOST_KEPT_CHARS: Final = 16 * 1024  # of one entry: what is longer was pasted, and nobody searches it
MOST_TYPED_CHARS: Final = 1_000_000  # of one message, as on the page; more is no question, and the node refuses it
TOO_MUCH: Final = "that is {:,} characters, and a message has {:,} at most: left out"
MOST_FILE_BYTES: Final = 1 << 20  # of the history; then its older half goes
OWN_FILE: Final = 0o600
PROMPT: Final = "> "
GOES_ON: Final = "  "
STYLE: Final = Style.from_dict({"bottom-toolbar": "noreverse", "prompt": "bold ansigreen"})


class Left(Exception):
    """Somebody has left the conversation: Ctrl-D."""


class ChatPrompt:
    """Asks for one message after the other. `below` is the bottom line, `models` the names that complete `/model`."""

    def __init__(
        self, history: History, models: Callable[[], Iterable[str]], below: Callable[[], str], begun: Callable[[], None]
    ) -> None:
        self._below, self._begun = below, begun
        self._refused = ""  # what was not taken, until something else is typed
        self._session: PromptSession[str] = PromptSession(
            history=history,
            multiline=True,
            key_bindings=_keys(self._refuse),
            completer=_Completer(models),
            complete_in_thread=True,
            complete_while_typing=Condition(_is_command),
            enable_history_search=False,  # it would turn completion off
            prompt_continuation=GOES_ON,
            bottom_toolbar=self._toolbar,
            style=STYLE,
            enable_suspend=True,
        )
        self._session.default_buffer.on_text_changed += self._changed

    def read(self) -> str:
        """What somebody sent. Raises Left at the end, KeyboardInterrupt for Ctrl-C in an empty line."""
        begun, self._begun = self._begun, _nothing
        try:
            return self._session.prompt([("class:prompt", PROMPT)], pre_run=begun)
        except EOFError:
            raise Left from None

    def _refuse(self, why: str) -> None:
        self._refused = why

    def _changed(self, _: Buffer) -> None:
        self._refused = ""

    def _toolbar(self) -> StyleAndTextTuples:
        if self._refused:
            return [("bold", f"{GOES_ON}{self._refused}")]
        return [("fg:ansibrightblack", f"{GOES_ON}{self._below()}")]


def _nothing() -> None:
    return


def _is_command() -> bool:
    return get_app().current_buffer.text.startswith("/")


def _keys(refused: Callable[[str], None]) -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text.strip():
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.text = ""

    @keys.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.BracketedPaste, filter=typing)
    def _(event: KeyPressEvent) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        room = MOST_TYPED_CHARS - len(event.current_buffer.text)
        if len(text) <= room:
            event.current_buffer.insert_text(text)
        else:
            refused(TOO_MUCH.format(len(text), MOST_TYPED_CHARS))

    @keys.add("c-c", filter=typing & Condition(lambda: bool(get_app().current_buffer.text)))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys


class _Completer(Completer):
    def __init__(self, models: Callable[[], Iterable[str]]) -> None:
        self._models = models
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        found = completions(document.text_before_cursor, self._models)
        if found is None or document.text_after_cursor:
            return
        for word, about in found.words:
            yield Completion(word, -found.typed, display_meta=about)
        if found.files:
            path = document.text_before_cursor[len(document.text_before_cursor) - found.typed :]
            for each in self._files.get_completions(Document(path), complete_event):
                if each.text.isprintable():
                    yield each


# The history


def history_file() -> Path:
    """After each system's custom: `~/.local/state/local-swarm/chat-history` on Linux."""
    return user_state_path("local-swarm", appauthor=False) / "chat-history"


def open_history(path: Path | None, problem: Callable[[str], None], most_bytes: int = MOST_FILE_BYTES) -> History:
    """The history in `path`, None: only until the conversation ends. What stands in its way is told to `problem`."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, OWN_FILE))
        path.chmod(OWN_FILE)
        _shorten(path, most_bytes)
        return _KeptHistory(str(path), problem)
    except OSError as error:
        problem(f"what you type is not kept, {path} cannot be used ({error.strerror or error})")
        return InMemoryHistory()


def _shorten(path: Path, most_bytes: int) -> None:
    if path.stat().st_size <= most_bytes:
        return
    kept = path.read_bytes()[-most_bytes // 2 :]
    begin = kept.find(b"\n\n# ")  # of an entry
    shorter = path.with_name(f"{path.name}.new")
    shorter.write_bytes(kept[begin + 1 :] if begin >= 0 else b"")
    shorter.chmod(OWN_FILE)
    shorter.replace(path)


class _KeptHistory(FileHistory):
    def __init__(self, path: str, problem: Callable[[str], None]) -> None:
        super().__init__(path)
        self._problem: Callable[[str], None] | None = problem

    def store_string(self, string: str) -> None:
        if len(string) > MOST_KEPT_CHARS:
            return
        try:
            super().store_string(string)
        except (OSError, UnicodeError) as error:
            problem, self._problem = self._problem, None
            if problem is not None:
                problem(f"what you type is no longer kept ({error})")
