"""`swarm launch PROGRAM`: start a coding agent against this swarm, with nothing written to the agent's own files.

What each program needs is said in its environment and on its command line alone (`launch_plan`, pure), so that it is
as before once it ends. Each was tried with the version that stands beside it; docs/compatibility.md has what they do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from swarm.commands.node_client import NodeApi, get_json
from swarm.commands.output import complain, say
from swarm.errors import SetupError

NO_KEY: Final = "none"  # programs want some key, and a node without keys takes any
KEY_VARIABLE: Final = "SWARM_LAUNCH_KEY"  # Codex reads its key from a variable that it is told the name of
OPENCODE_OUTPUT_TOKENS: Final = 4096  # what it leaves free in the context for an answer


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


@dataclass(frozen=True, slots=True)
class LaunchProgram:
    """A program that can be started. `prompt_tokens` are what it says before its user does, as measured."""

    name: str
    title: str
    install: str
    prompt_tokens: int | None
    plan: Callable[[LaunchTarget], LaunchPlan]


def _claude(target: LaunchTarget) -> LaunchPlan:
    """Claude Code asks for `claude-...`, which is `swarm`; for another model each of its names has to be said."""
    models: dict[str, str | None] = {}
    if target.model != "swarm":
        names = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL", "SMALL_FAST_MODEL")
        models = {f"ANTHROPIC_{name}": target.model for name in names}
    return LaunchPlan(
        environment={
            "ANTHROPIC_BASE_URL": target.url,
            "ANTHROPIC_AUTH_TOKEN": target.key,
            "ANTHROPIC_API_KEY": None,  # beside a token it asks which of the two is meant
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",  # else it wants to reach its maker before it starts
            **models,
        }
    )


def _codex(target: LaunchTarget) -> LaunchPlan:
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


def _opencode(target: LaunchTarget) -> LaunchPlan:
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


def _aider(target: LaunchTarget) -> LaunchPlan:
    return LaunchPlan(
        words=("--model", f"openai/{target.model}", "--no-show-model-warnings"),
        environment={"OPENAI_API_BASE": f"{target.url}/v1", "OPENAI_API_KEY": target.key},
    )


PROGRAMS: Final = (
    LaunchProgram("claude", "Claude Code", "npm install -g @anthropic-ai/claude-code", 23_000, _claude),  # 2.1
    LaunchProgram("codex", "Codex", "npm install -g @openai/codex", 8_300, _codex),  # 0.171
    LaunchProgram("opencode", "opencode", "npm install -g opencode-ai", 7_700, _opencode),  # 1.18
    LaunchProgram("aider", "aider", "pip install aider-install && aider-install", None, _aider),  # 0.86
)

# Where to say it in programs that keep their own settings; {url} and {key} are the node's.
OTHERS: Final[Mapping[str, Sequence[str]]] = {
    "any OpenAI client": ("base URL {url}/v1", "API key  {key}", "model    {model}"),
    "any Anthropic client": ("base URL {url}", "API key  {key}", "model    {model}"),
    "Open WebUI": ("OPENAI_API_BASE_URL={url}/v1", "OPENAI_API_KEY={key}"),
    "Continue (~/.continue/config.yaml)": (
        "models:",
        "  - name: swarm",
        "    provider: openai",
        "    model: {model}",
        "    apiBase: {url}/v1",
        "    apiKey: {key}",
    ),
    "llm (extra-openai-models.yaml)": ("- model_id: swarm", "  model_name: {model}", "  api_base: {url}/v1"),
}


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


def too_small(program: LaunchProgram, target: LaunchTarget) -> str | None:
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
    program = next(program for program in PROGRAMS if program.name == name)
    found = shutil.which(program.name)
    if found is None:
        raise SetupError(f"{program.title} is not installed (no {program.name} on the PATH): {program.install}")
    target = find_target(api, model)
    plan = program.plan(target)
    if (warning := too_small(program, target)) is not None:
        complain(f"swarm: {warning}")
    complain(f"swarm: starting {program.title} with {target.model} at {target.url}; its own settings stay as they are")
    environment = program_environment(os.environ, plan)
    try:
        os.execve(found, [program.name, *plan.words, *words], environment)
    except OSError as error:
        raise SetupError(f"{found} cannot be started: {error.strerror}") from error


def list_programs(api: NodeApi, model: str, as_json: bool) -> int:
    """Which programs are installed, and what to write into the settings of others."""
    url, key = api.url.rstrip("/"), "KEY" if api.api_key else NO_KEY
    target = LaunchTarget(url, key if api.api_key else None, model, None)  # the key itself is not for the screen
    installed = {program.name: shutil.which(program.name) for program in PROGRAMS}
    others = {name: [line.format(url=url, key=key, model=model) for line in lines] for name, lines in OTHERS.items()}
    if as_json:
        programs = [
            {
                "name": program.name,
                "title": program.title,
                "path": installed[program.name],
                "install": program.install,
                "words": list(program.plan(target).words),
                "environment": dict(program.plan(target).environment),
            }
            for program in PROGRAMS
        ]
        say(json.dumps({"programs": programs, "others": others}, indent=2))
        return 0
    for program in PROGRAMS:
        path = installed[program.name]
        state = f"swarm launch {program.name}   ({path})" if path else f"not installed: {program.install}"
        say(f"{program.title:<12} {state}")
    say("\nFor programs with settings of their own:")
    for name, lines in others.items():
        say(f"\n  {name}")
        for line in lines:
            say(f"    {line}")
    return 0
