"""The Grafana dashboard and the scrape example against what a real node's /metrics has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from swarm.gateway.http.access import AccessRules, digest
from tests.doubles.clients import chat_body
from tests.doubles.stage import staged

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
OF_THE_SCRAPE = {"job", "instance"}  # labels that Prometheus adds
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
# Their labels cannot be seen on a node where nothing of the kind has happened, or nothing is measured.
LABELS = {
    "swarm_requests_total": {"endpoint", "status"}, "swarm_request_seconds_bucket": {"endpoint", "le"},
    "swarm_votes_total": {"kind", "outcome"}, "swarm_votes_stopped_total": {"by"},
    "swarm_model_memory_bytes": {"model"}, "swarm_refused_total": {"reason"},
    "swarm_model_loads_total": {"to"}, "swarm_model_unloads_total": {"cause"},
}  # fmt: skip

_NAME = re.compile(r"\bswarm_[a-z_]+\b")
_SELECTOR = re.compile(r"(?P<name>\bswarm_[a-z_]+)\{(?P<matchers>[^}]*)\}")
_LABEL = re.compile(r"(?P<label>[a-z_]+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\bby \((?P<labels>[^)]*)\)")
_LEGEND = re.compile(r"\{\{(?P<label>[a-z_]+)\}\}")


def panels() -> list[dict[str, Any]]:
    return list(DASHBOARD["panels"])


def targets() -> Iterator[tuple[str, str]]:
    """Each expression, with its legend."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


def labels_of(expression: str, legend: str) -> set[str]:
    """Every label that an expression and its legend name."""
    found = {match["label"] for match in _LEGEND.finditer(legend)}
    for match in _BY.finditer(expression):
        found |= {label.strip() for label in match["labels"].split(",")}
    for selector in _SELECTOR.finditer(expression):
        found |= {match["label"] for match in _LABEL.finditer(selector["matchers"])}
    return found


def metrics_in(text: str) -> dict[str, set[str]]:
    """Every name that Prometheus would know from this text, with its labels."""
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES.get(family.type, ()):
            known.setdefault(family.name + suffix, set())
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


async def test_every_name_and_label_of_the_dashboard_exists_on_a_node() -> None:
    async with AsyncExitStack() as stack:
        stage = await staged(stack)
        stage.voters_say("Answer: 8", "Answer: 8", "Answer: 8", "Answer: 8")
        body = chat_body("Reply with only a number: 4 + 4", swarm={"votes": 4, "strategy": "majority"})
        await stage.client.post("/v1/chat/completions", body)
        known = metrics_in((await stage.client.get("/metrics")).text)
    for name, labels in LABELS.items():
        assert known[name] <= labels
        known[name] |= labels
    for expression, legend in targets():
        names = set(_NAME.findall(expression))
        assert names, expression
        assert names <= known.keys(), f"{expression}: no node has {names - known.keys()}"
        there = OF_THE_SCRAPE.union({"le"}, *(known[name] for name in names))
        assert labels_of(expression, legend) <= there, expression


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert panel["datasource"]["uid"] == "${datasource}", "whoever imports it chooses the Prometheus"


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.parametrize(
    ("expression", "legend", "labels"),
    [
        ('sum by (to, by) (rate(swarm_a_total{job="$job",x=~"y"}[5m]))', "{{to}} {{z}}", {"to", "by", "job", "x", "z"}),
        ("swarm_slots", "", set[str]()),
    ],
)
def test_labels_are_read(expression: str, legend: str, labels: set[str]) -> None:
    assert labels_of(expression, legend) == labels


async def test_the_scrape_example_is_answered_with_the_key_that_it_sends() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/etc/prometheus/local-swarm-key"}
    async with AsyncExitStack() as stack:
        stage = await staged(stack, access=AccessRules(key_digests=(digest("k"),)))
        scraped = await stage.client.get(job["metrics_path"], Authorization=f"{job['authorization']['type']} k")
        assert (scraped.status, (await stage.client.get(job["metrics_path"])).status) == (200, 401)
