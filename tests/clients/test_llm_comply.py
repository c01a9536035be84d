"""Every test of the `llm-comply` suite: Chat Completions, Responses and Messages against their published schemas."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import llm_comply
import pytest
from llm_comply import config, http, result, runner, schema
from llm_comply.tests.anthropic import ANTHROPIC_TESTS
from llm_comply.tests.open_responses import OPEN_RESPONSES_TESTS
from llm_comply.tests.openai_chat import OPENAI_CHAT_TESTS

from tests.doubles.tiny_models import write_named_model, write_projector
from tests.e2e.node_process import NodeProcess

# The suite resolves references in its schemas by a class that jsonschema is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")

SPECS = Path(llm_comply.__file__).parent / "specs"
SUITES = {
    "openai_chat.json": OPENAI_CHAT_TESTS,
    "openresponses.json": OPEN_RESPONSES_TESTS,
    "anthropic.json": ANTHROPIC_TESTS,
}
# The suite itself calls it advisory: "many providers lack this endpoint", and 404 is among the answers that it expects.
ADVISORY = ("compact-response",)
ATTEMPTS = 4  # the suite names no temperature: a sample of a model this small may miss the call that a test is about
CASES = [pytest.param(spec, case, id=case.id) for spec, cases in SUITES.items() for case in cases]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with the embedded model, and one that sees."""
    eyes = write_named_model(tmp_path_factory.mktemp("models") / "eyes.gguf")
    write_projector(eyes.parent / "mmproj-eyes.gguf")
    sampled = eyes.parent / "sampled.toml"  # greedy, it misses the same calls each time
    sampled.write_text('[models."demo".sampling]\ntemperature = 0.8\n', encoding="utf-8")
    arguments = ("--model", "demo", "--model", str(eyes), "--config", str(sampled))
    with NodeProcess("kitchen", tmp_path_factory.mktemp("node"), arguments=arguments) as running:
        asyncio.run(running.ready())
        yield running


@pytest.fixture(scope="module")
def comply(base_url: str) -> Iterator[config.ComplianceConfig]:
    """What the suite is told; its one client is closed at the end."""
    yield config.ComplianceConfig(base_url=base_url, api_key="none", model="demo")
    http.close_client()


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_complies(comply: config.ComplianceConfig, spec: str, case: runner.TestCase) -> None:
    if "image" in case.id:
        comply = dataclasses.replace(comply, model="eyes")
    suite = runner.TestRunner(comply, [case], schema.SpecLoader(str(SPECS / spec)))
    for _ in range(ATTEMPTS):
        done = suite.run_one(case)
        if not done.errors:
            break
    if done.status is result.TestStatus.SKIPPED:
        pytest.skip("; ".join(done.errors))
    assert done.errors == []
    assert done.warnings == [] or case.id in ADVISORY
