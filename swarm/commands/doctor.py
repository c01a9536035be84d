"""`swarm doctor`: is everything here as a node needs it, and what to do where it is not."""

from __future__ import annotations

import json
from dataclasses import replace

from federation.printable_text import clean_line
from hardware.probe import probe_hardware
from hardware.snapshot_text import render
from swarm.commands.output import say
from swarm.doctor.examination import examine
from swarm.doctor.finding import Finding, Level, exit_code
from swarm.node.engines import NodeEngines
from swarm.node.settings import Settings

SIGNS = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL", Level.UNKNOWN: "?   "}


def hardware(settings: Settings, as_json: bool) -> int:
    """Print the hardware snapshot, with the memory that the engine of this machine can use."""
    engines = NodeEngines.look(settings, probe_hardware())
    shown = engines.on_gpu, engines.usual_memory
    say(json.dumps(engines.snapshot.as_json(*shown), indent=2) if as_json else render(engines.snapshot, *shown))
    return 0


def doctor(settings: Settings, as_json: bool) -> int:
    """Print each finding as it comes; 1 if something failed. Looks at the machine as a federated node would."""
    findings: list[Finding] = []
    for finding in examine(replace(settings, federation=True)):
        findings.append(finding)
        if not as_json:
            say(text_of(finding))
    code = exit_code(findings)
    if as_json:
        say(json.dumps({"ok": code == 0, "findings": [finding.as_json() for finding in findings]}, indent=2))
    else:
        say(conclusion(findings))
    return code


def text_of(finding: Finding) -> str:
    """One finding for people; what peers say of themselves cannot steer the terminal."""
    line = f"{SIGNS[finding.level]}  {clean_line(f'{finding.check}: {finding.message}')}"
    return line if finding.remedy is None else f"{line}\n      -> {clean_line(finding.remedy)}"


def conclusion(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    if counts[Level.FAIL]:
        return f"{counts[Level.FAIL]} of {len(findings)} checks failed"
    if counts[Level.WARN] or counts[Level.UNKNOWN]:
        return f"nothing failed; {counts[Level.WARN]} warnings, {counts[Level.UNKNOWN]} could not be looked at"
    return "all well"
