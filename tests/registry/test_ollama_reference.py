"""Every example of Ollama's public reference, sent to a node: its answers have the fields and types that it tells.

`ollama_reference.json` has the examples and the types, with the commits that they were read from, and each way in which
a node differs with its reason.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import jsonschema
import pytest

from hardware.probe import probe_hardware
from swarm.gateway.answers.model_names import NAMES
from swarm.generation import Delta, GenerationRequest, ToolCallDelta
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import model_store
from swarm.node.models import NodeModels
from swarm.node.settings import make_settings
from swarm.node.shelf import NodeShelf
from tests.doubles import images
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.tiny_models import write_encoder, write_infill_model, write_named_model, write_projector
from tests.registry.fake_hub import Hub, Upload
from tests.registry.test_page_pulls import FILE, NAME, REPO

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "ollama.md").read_text(encoding="utf-8")
REFERENCE: Final[Mapping[str, Any]] = json.loads(Path(__file__).with_name("ollama_reference.json").read_text("utf-8"))
EXAMPLES: Final[list[dict[str, Any]]] = REFERENCE["examples"]
USUAL: Final = "writer"  # in place of the models that the reference names
FREE: Final = frozenset({"model_info", "arguments"})  # objects whose keys are the model's own
WORDS: Final = 12  # tokens of an answer whose request sets no bound, by the node's configuration


@dataclass(frozen=True, slots=True)
class Answered:
    """What came: one object, or one a line."""

    status: int
    lines: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]


def plays(request: GenerationRequest, _: int) -> list[Delta | str]:
    """A model that calls the tool it is given, and else thinks."""
    if request.tools:
        arguments = '{"location": "Paris", "format": "celsius"}'
        return [Delta(tool_calls=(ToolCallDelta(0, None, request.tools[0].function.name, arguments),))]
    return [Delta(reasoning="One and one."), "2"]


def few_words(model_id: str, also: Collection[str]) -> Mapping[str, float | int]:
    """What the owner of this node has decided for each model."""
    del model_id, also
    return {"max_tokens": WORDS}


@asynccontextmanager
async def nodes_in(folder: Path) -> AsyncGenerator[Mapping[str, RunningNode]]:
    """`disk`: with models that write, see, fill in and embed. `played`: a model that does as it is told."""
    place, eyes = folder / "models" / "owner--repo", folder / "models" / "owner--eyes"
    for path in (place / "writer.gguf", place / "spare.gguf", eyes / "eyes.gguf"):
        write_named_model(path)
    write_projector(eyes / "mmproj-eyes.gguf")
    write_infill_model(place / "infill.gguf")
    write_encoder(place / "encoder.gguf")
    settings = make_settings({"data_dir": folder, "models_dir": [folder / "none"]})
    engines = await asyncio.to_thread(NodeEngines.look, settings, probe_hardware())
    models = await asyncio.to_thread(NodeModels, model_store(settings), settings, engines)
    async with AsyncExitStack() as stack:
        disk = RunningNode(
            "kitchen",
            options=NodeOptions(
                source=models,
                memory=models.memory,
                shelf=NodeShelf(settings, None, lambda: models, lambda: disk.loadables.changed()),
                look_again=models.look_again,
                sampling=few_words,
            ),
        )
        await stack.enter_async_context(disk)
        played = await stack.enter_async_context(RunningNode("study", ready(ScriptedEngine(plays, model_id=USUAL))))
        await disk.app[NAMES].look_again()
        yield {"disk": disk, "played": played}


def sent(example: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request of an example, with a model of ours and a picture of ours."""
    if "body" not in example:
        return None
    named = {"hub": NAME}.get(model := example.get("model", USUAL), model)
    text = json.dumps(example["body"]).replace('"PICTURE"', json.dumps(base64.b64encode(images.png()).decode()))
    body: dict[str, Any] = json.loads(text)
    field = "source" if "source" in body else "model"
    refused = example["path"] in ("/api/create", "/api/push")
    return body if refused or field not in body else {**body, field: named}


async def asked(node: RunningNode, example: Mapping[str, Any]) -> Answered:
    body = sent(example)
    data = None if body is None else json.dumps(body).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl sends it, and the reference with it
    async with (
        aiohttp.ClientSession() as session,
        session.request(example["method"], node.url + example["path"], data=data, headers=form) as answer,
    ):
        lines = (await answer.text()).splitlines()
        return Answered(answer.status, [json.loads(line) for line in lines])


def places(value: object, at: str = "") -> Iterator[str]:
    """Each field of an answer, as the data names it: `message.role`, `models[].name`."""
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield f"{at}{key}"
            if key not in FREE:
                yield from places(inner, f"{at}{key}.")
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from places(inner, f"{at.removesuffix('.')}[].")


def check(answer: dict[str, Any], schema: str) -> None:
    """Raises where a type is another than the reference's, or a field is there that nobody has told of."""
    document = {**REFERENCE["schemas"][schema], "$defs": REFERENCE["schemas"]}
    validator: Any = jsonschema.Draft202012Validator(document)
    validator.validate(answer)
    known = set(fields_of(REFERENCE["schemas"][schema]))
    unknown = {place.rpartition(".")[2] for place in places(answer) if place not in known and not is_own(place)}
    assert unknown <= REFERENCE["added"].keys(), f"fields that the reference does not have: {unknown}"


def is_own(place: str) -> bool:
    """Whether it is inside of what a node adds, or of an object of which the reference gives no fields."""
    return place.split(".")[0] in REFERENCE["added"] or ".details." in f".{place}" or place.startswith("details.")


def fields_of(schema: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Each field of a schema, as `places` names those of an answer."""
    if "$ref" in schema:
        yield from fields_of(REFERENCE["schemas"][schema["$ref"].rpartition("/")[2]], at)
    elif "items" in schema:
        yield from fields_of(schema["items"], f"{at.removesuffix('.')}[].")
    for key, inner in schema.get("properties", {}).items():
        yield f"{at}{key}"
        yield from fields_of(inner, f"{at}{key}.")


def differs(example: Mapping[str, Any], answered: Answered) -> str | None:
    """In what an answer is not as the example has it, in words."""
    try:
        assert answered.status == example["status"], f"the status is {answered.status}"
        if "answer" not in example:  # nothing is told of the body
            assert [line["status"] for line in answered.lines] == ["success"] * len(answered.lines)
            return None
        for line in answered.lines[:-1]:
            check(line, example["events"])
        check(answered.last, example["answer"])
        assert ("events" in example) == (len(answered.lines) > 1), "a stream is lines, and nothing else is"
        missing = set(example["fields"]) - set(places(answered.last)) - set(example.get("may_miss", ()))
        assert missing == set(example.get("missing", ())), f"the reference's example has these: {missing}"
    except (AssertionError, jsonschema.ValidationError) as error:
        return f"{error}: {answered.lines[-1:]}"
    return None


def of_area(area: str) -> list[dict[str, Any]]:
    """The examples of one endpoint, or of all that are about models."""
    about = {"generate", "chat", "embed", "embeddings"}
    area_of = {example["name"]: example["path"].split("/")[2] for example in EXAMPLES}
    wanted = {area} if area in about else set(area_of.values()) - about
    return [example for example in EXAMPLES if area_of[example["name"]] in wanted]


@pytest.mark.parametrize("area", ["generate", "chat", "embed", "embeddings", "models"])
async def test_the_examples_of_the_reference(hub: Hub, tmp_path: Path, area: str) -> None:
    hub.put(REPO, FILE, Upload(write_named_model(tmp_path / "made" / FILE).read_bytes()))
    examples, wrong, answers = of_area(area), dict[str, str](), dict[str, Answered]()
    async with nodes_in(tmp_path) as nodes:
        if area == "models":
            await asked(nodes["disk"], of_area("generate")[0])  # one runs
        for example in examples:
            answered = answers[example["name"]] = await asked(nodes[example.get("node", "disk")], example)
            if (words := differs(example, answered)) is not None:
                wrong[example["name"]] = words
    assert not wrong, "\n".join(f"{name}: {words}" for name, words in wrong.items())
    what_they_are_about(area, answers)


def what_they_are_about(area: str, answers: Mapping[str, Answered]) -> None:
    """Beyond fields and types: what a model is asked for is in its answer."""
    if area == "chat":
        call = answers["chat: tool calling"].last["message"]["tool_calls"][0]["function"]
        assert (call["name"], call["arguments"]) == ("get_current_weather", {"location": "Paris", "format": "celsius"})
        thoughts = [line["message"].get("thinking", "") for line in answers["chat: thinking"].lines]
        assert "".join(thoughts) == "One and one."
    if area in ("chat", "generate"):
        reasons = {name: answer.last["done_reason"] for name, answer in answers.items()}
        assert {name: reason for name, reason in reasons.items() if reason in ("load", "unload")} == {
            f"{area}: load model": "load", f"{area}: unload model": "unload",
        }  # fmt: skip
    if area == "generate":
        likely = answers["generate: log probabilities"].last["logprobs"]
        assert 0 < len(likely) <= WORDS
        assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in likely)
        assert "".join(token["token"] for token in likely) == answers["generate: log probabilities"].last["response"]
    if area == "embed":
        assert len(answers["embed: multiple inputs"].last["embeddings"]) == 2
    if area == "models":
        refused = answers["create: from existing"].last["error"]
        assert refused.startswith("models are not made here: a second name for gemma4")
        (running,) = answers["ps"].last["models"]
        assert (running["name"], running["details"]["format"]) == (USUAL, "gguf")


def test_every_deviation_has_a_reason_that_the_page_gives() -> None:
    used = {example["refused"] for example in EXAMPLES if "refused" in example}
    for example in EXAMPLES:
        used |= {*example.get("missing", ()), *example.get("may_miss", ())}
    assert used == REFERENCE["deviations"].keys()
    assert [name for name, why in REFERENCE["deviations"].items() if f"`{name}`" not in PAGE or not why] == []
    assert [name for name, why in REFERENCE["added"].items() if f"`{name}`" not in PAGE or not why] == []
    assert all(commit in PAGE for commit in REFERENCE["sources"].values())


def test_examples_are_of_every_endpoint_that_the_reference_has() -> None:
    paths = {example["path"] for example in EXAMPLES if "/blobs/" not in example["path"]}
    endpoints = (
        "generate", "chat", "embed", "embeddings", "tags", "ps", "show", "create", "copy", "pull", "push", "delete",
        "version",
    )  # fmt: skip
    assert paths == {f"/api/{name}" for name in endpoints}
    assert {example["source"] for example in EXAMPLES} == REFERENCE["sources"].keys()


def test_an_answer_that_is_otherwise_is_found() -> None:
    good = {"model": "a", "embeddings": [[0.5]], "total_duration": 1, "prompt_eval_count": 1}
    check(good, "EmbedResponse")
    for wrong in ({**good, "total_duration": "1"}, {**good, "embeddings": [["a"]]}):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, "EmbedResponse")
    with pytest.raises(AssertionError, match="does not have"):
        check({**good, "usage": {}}, "EmbedResponse")
    listed = {"models": [{"name": "a", "colour": "red"}]}
    with pytest.raises(AssertionError, match="colour"):
        check(listed, "ListResponse")
