"""`swarm launch PROGRAM`: start a coding agent against this swarm, with nothing written to the agent's own files.

What each program needs is said in its environment and on its command line alone (`launch_plan`, pure), so that it is
as before once it ends. It stands in the `launch` tables of `clients.toml`; only what no template can say is code here.
Each is run by tests/clients; docs/clients/ has what they do.

`--list` and `--settings` show every client of that file. The API key is not for the screen: where one is given, KEY
stands for it.
"""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from swarm.commands.client_settings import USUAL_CONTEXT_TOKENS, ClientEntry, by_kind, client_entries
from swarm.commands.node_client import NodeApi, NodeUnreachable, NotForYou, get_json
from swarm.commands.output import complain, say
from swarm.commands.parser import closest
from swarm.errors import SetupError

NO_KEY: Final = "none"  # programs want some key, and a node without keys takes any
KEY_VARIABLE: Final = "SWARM_LAUNCH_KEY"  # Codex reads its key from a variable that it is told the name of
OPENCODE_OUTPUT_TOKENS: Final = 4096  # what it leaves free in the context for an answer
WIDTH: Final = 80  # columns
KEY_IN_TEXT: Final = "KEY"
# What any client of an API is told.
ANY_CLIENT: Final = (("OpenAI's API", "{url}/v1"), ("Anthropic's API", "{url}"), ("Ollama's API", "{url}"))


@dataclass(frozen=True, slots=True)
class LaunchTarget:
    """What a program is pointed at: a node's base URL, the key it wants (None: none), a model and its context."""

    url: str
    api_key: str | None = field(repr=False)
    model: str
    context_tokens: int | None

    @property
    def key(self) -> str:
        return self.api_key or NO_KEY


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How to start a program: words after its name, and variables to set, or with None to remove."""

    words: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict[str, str | None])


def _claude_models(target: LaunchTarget) -> LaunchPlan:
    """Claude Code asks for `claude-...`, which is `swarm`; for another model each of its names has to be said."""
    if target.model == "swarm":
        return LaunchPlan()
    names = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL", "SMALL_FAST_MODEL")
    return LaunchPlan(environment={f"ANTHROPIC_{name}": target.model for name in names})


def _codex_provider(target: LaunchTarget) -> LaunchPlan:
    """Codex takes each setting as `-c NAME=VALUE` in TOML, and a key only by the name of a variable that is there."""
    provider = {"name": "Local Swarm", "base_url": f"{target.url}/v1", "wire_api": "responses"}
    if target.api_key is not None:
        provider["env_key"] = KEY_VARIABLE
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in provider.items())
    settings = [
        f"model={json.dumps(target.model)}",
        'model_provider="swarm"',
        f"model_providers.swarm={{{inline}}}",
    ]
    if target.context_tokens is not None:
        settings.append(f"model_context_window={target.context_tokens}")  # it compacts before that is full
    return LaunchPlan(
        words=tuple(word for setting in settings for word in ("-c", setting)),
        environment={} if target.api_key is None else {KEY_VARIABLE: target.api_key},
    )


def _opencode_config(target: LaunchTarget) -> LaunchPlan:
    """opencode takes a whole configuration, as JSON in a variable."""
    model: dict[str, Any] = {"name": target.model}
    if target.context_tokens is not None:
        output_tokens = min(OPENCODE_OUTPUT_TOKENS, target.context_tokens // 4)
        model["limit"] = {"context": target.context_tokens, "output": output_tokens}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Local Swarm",
        "options": {"baseURL": f"{target.url}/v1", "apiKey": target.key},
        "models": {target.model: model},
    }
    config = {"model": f"swarm/{target.model}", "provider": {"swarm": provider}}
    return LaunchPlan(environment={"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


# By client: what is told beside what its `launch` table says.
BESIDE_THE_TABLE: Final[Mapping[str, Callable[[LaunchTarget], LaunchPlan]]] = {
    "claude-code": _claude_models,
    "codex": _codex_provider,
    "opencode": _opencode_config,
}


def launch_plan(entry: ClientEntry, target: LaunchTarget) -> LaunchPlan:
    """How that client is started against `target`. Raises SetupError for one that keeps settings of its own."""
    table = entry.launch
    if table is None:
        raise SetupError(
            f"{entry.title} keeps settings of its own: `swarm launch --settings {entry.id}` says what to write there"
        )

    def filled(text: str) -> str:
        return text.format(url=target.url, key=target.key, model=target.model)

    beside = BESIDE_THE_TABLE[entry.id](target) if entry.id in BESIDE_THE_TABLE else LaunchPlan()
    environment: dict[str, str | None] = {name: filled(value) for name, value in table.environment.items()}
    removed = dict.fromkeys(table.remove)
    return LaunchPlan(
        words=(*(filled(word) for word in table.words), *beside.words),
        environment={**environment, **removed, **beside.environment},
    )


def find_client(name: str) -> ClientEntry:
    """The client with that id or title, or whose program is called so, in any case of its letters.

    Raises SetupError with the nearest name there is.
    """
    entries, wanted = client_entries(), name.casefold()
    for entry in entries:
        if wanted in (entry.name, entry.id, entry.title.casefold()):
            return entry
    likely = closest(wanted, [known for entry in entries for known in {entry.name, entry.id}])
    hint = "" if likely is None else f": did you mean {likely!r}?"
    raise SetupError(f"no client is called {name!r}{hint} (`swarm launch --list` has them all)")


def find_target(api: NodeApi, model: str) -> LaunchTarget:
    """What `model` is on that node. Raises SetupError for one that it does not know, NodeUnreachable without a node."""
    listed = get_json(api, "/v1/models").get("data")
    entries: list[Any] = cast("list[Any]", listed) if isinstance(listed, list) else []
    known: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if isinstance(entry, dict):
            model_entry = cast("dict[str, Any]", entry)
            known |= {str(name): model_entry for name in (model_entry.get("id"), *(model_entry.get("aliases") or ()))}
    if model not in known:
        raise SetupError(f"no model is called {model!r} there: take one of {', '.join(known) or 'none: none runs'}")
    context = known[model].get("context_tokens")
    return LaunchTarget(api.url.rstrip("/"), api.api_key, model, context if isinstance(context, int) else None)


def too_small(program: ClientEntry, target: LaunchTarget) -> str | None:
    """What is said where the program's first prompt does not fit the model's context; None where it does."""
    needed, context = program.prompt_tokens, target.context_tokens
    if needed is None or context is None or context > needed:
        return None
    return (
        f"{target.model} has a context of {context} tokens, and {program.title} says about {needed} before you do: "
        f"most of what it asks will be refused. Start the node with --context {2 ** needed.bit_length()}, or name a "
        "--model with a longer one"
    )


def program_environment(own: Mapping[str, str], plan: LaunchPlan) -> dict[str, str]:
    """The environment of the program: `own`, with what the plan sets, without what it removes."""
    changed = {**own, **plan.environment}
    return {name: value for name, value in changed.items() if value is not None}


def launch(api: NodeApi, name: str, model: str, words: Sequence[str]) -> int:
    """Become that program. Raises SetupError where it is not installed, or the node cannot serve it."""
    entry = find_client(name)
    launch_plan(entry, LaunchTarget(api.url, None, model, None))  # it says at once what cannot be started
    found = shutil.which(entry.name)
    if found is None:
        raise SetupError(f"{entry.title} is not installed (no {entry.name} on the PATH): {entry.install}")
    target = find_target(api, model)
    plan = launch_plan(entry, target)
    if (warning := too_small(entry, target)) is not None:
        complain(f"swarm: {warning}")
    complain(f"swarm: starting {entry.title} with {target.model} at {target.url}; its own settings stay as they are")
    environment = program_environment(os.environ, plan)
    try:
        os.execve(found, [entry.name, *plan.words, *words], environment)
    except OSError as error:
        raise SetupError(f"{found} cannot be started: {error.strerror}") from error


def _shown(api: NodeApi, model: str, context_tokens: int | None = None) -> LaunchTarget:
    """What stands in texts."""
    return LaunchTarget(api.url.rstrip("/"), KEY_IN_TEXT if api.api_key else None, model, context_tokens)


def _lines(entry: ClientEntry, target: LaunchTarget) -> list[str]:
    keyless = target.api_key is None
    return entry.lines(target.url, target.key, target.model, target.context_tokens, keyless=keyless)


def list_clients(api: NodeApi, model: str, as_json: bool) -> int:
    """Which programs are installed, and every other client that has settings to write."""
    target = _shown(api, model)
    entries = client_entries()
    if as_json:
        programs = [_program(entry, target) for entry in entries if entry.launch is not None]
        clients = [_client(entry, target) for entry in entries]
        say(json.dumps({"programs": programs, "clients": clients}, indent=2))
        return 0
    say("\n".join(list_lines(entries, target)))
    return 0


def list_lines(entries: tuple[ClientEntry, ...], target: LaunchTarget) -> Iterator[str]:
    """The list, within 80 columns as far as what is in it allows."""
    launched = [entry for entry in entries if entry.launch is not None]
    width = max(len(entry.name) for entry in launched)
    title_width = max(len(entry.title) for entry in launched)
    yield "Started against this node by `swarm launch NAME`, here or not:\n"
    for entry in launched:
        path = shutil.which(entry.name)
        before = f"  {entry.name:<{width}}  {entry.title:<{title_width}}"
        state = path if path else f"not installed: {entry.install}"
        yield f"{before}  {state}" if len(before) + 2 + len(state) <= WIDTH else f"{before.rstrip()}\n      {state}"
    yield "\nWhat to write into the settings of each: `swarm launch --settings NAME`"
    width = max(len(name) for name in [*(entry.id for entry in entries), *(name for name, _ in ANY_CLIENT)])
    for heading, of_kind in by_kind(entries).items():
        yield f"\n{heading}"
        yield from (f"  {entry.id:<{width}}  {entry.title}" for entry in of_kind)
    yield "\nAny other client"
    for name, url in ANY_CLIENT:
        yield f"  {name:<{width}}  base URL {url.format(url=target.url)}"
    yield f"  {'with':<{width}}  API key {target.key}, model {target.model}"


def _program(entry: ClientEntry, target: LaunchTarget) -> dict[str, Any]:
    plan = launch_plan(entry, target)
    return {
        "name": entry.name,
        "title": entry.title,
        "path": shutil.which(entry.name),
        "install": entry.install,
        "words": list(plan.words),
        "environment": dict(plan.environment),
    }


def _client(entry: ClientEntry, target: LaunchTarget) -> dict[str, Any]:
    return {
        "id": entry.id,
        "title": entry.title,
        "kind": entry.kind,
        "api": entry.api.split(", "),
        "packages": list(entry.packages),
        "install": entry.install,
        "where": entry.where,
        "settings": _lines(entry, target),
        "notes": list(entry.notes),
        "phones_home": entry.phones_home or None,
        "lacks": dict(entry.lacks),
        "prompt_tokens": entry.prompt_tokens,
    }


def show_settings(api: NodeApi, name: str, model: str, as_json: bool) -> int:
    """What to write into the settings of one client. Raises SetupError for a client or a model that nobody knows."""
    entry = find_client(name)
    context, remark = None, None
    if any("{context}" in line for line in entry.settings):
        try:
            context = find_target(api, model).context_tokens
        except (NodeUnreachable, NotForYou):
            remark = f"{USUAL_CONTEXT_TOKENS} stands for the model's context: no node could be asked for it."
    target = _shown(api, model, context)
    say(json.dumps(_client(entry, target), indent=2) if as_json else "\n".join(settings_lines(entry, target, remark)))
    return 0


def settings_lines(entry: ClientEntry, target: LaunchTarget, remark: str | None = None) -> Iterator[str]:
    """A client's settings, and what to know of them; lines to be copied stay whole, however long."""
    yield f"{entry.title}: {entry.install}"
    yield from _wrapped(f"Write {entry.where}:")
    yield ""
    yield from (f"    {line}".rstrip() for line in _lines(entry, target))
    notes = [*entry.notes, *([f"Phones home: {entry.phones_home}"] if entry.phones_home else [])]
    if target.api_key is not None and any("{key}" in line for line in entry.settings):
        notes.append(f"{KEY_IN_TEXT} stands for the API key.")
    if remark is not None:
        notes.append(remark)
    if entry.launch is not None:
        notes.append(f"`swarm launch {entry.name}` starts it with nothing written anywhere.")
    if notes:
        yield ""
    for note in notes:
        yield from _wrapped(note, "* ", "  ")


def _wrapped(text: str, first: str = "", further: str = "") -> list[str]:
    """`text` in lines of WIDTH, in which options, commands and addresses stay whole, to be copied."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
