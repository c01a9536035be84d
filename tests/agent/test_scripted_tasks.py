"""`swarm agent` at work in scratch repositories: a played model behind a real node, real votes, files and sandbox.

Each task is a command of its own, of an ordinary user. It is judged by what the repository is afterwards and by the
events, and by what the model was told: the engine has seen every conversation.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import pytest_asyncio

from swarm.engines.engine import EngineSpec
from swarm.generation import GenerationRequest
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from swarm.tools.tool import MAX_OUTPUT_CHARS
from tests.doubles.agent_program import Ended, ForkedCommands, Scratch
from tests.doubles.played_engine import Call, Conversation, Part, PlayedEngine, Say, Turn, call, calls, in_turn
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

DONE = Say("done")
OUTPUT_WITH_REMARK_CHARS = MAX_OUTPUT_CHARS + 200  # the line that says what was cut, and the exit code
CHECK = "#!/bin/sh\n. ./sum.sh\n[ \"$(add 2 3)\" = 5 ] && echo '1 passed' || { echo '1 failed: 2 + 3'; exit 1; }\n"
SECONDS_OF_THIS_RUN = 100 * (10_000_000 + os.getpid())  # to sleep: marks its processes, whoever else runs here
BROKEN_SUM = "add() { echo $(($1 - $2)); }\n"


@dataclass(frozen=True, slots=True)
class Job:
    """A task that was done: how the command ended, the repository, and what the model was asked, step by step."""

    ended: Ended
    scratch: Scratch
    asked: tuple[GenerationRequest, ...]

    @property
    def code(self) -> int:
        return self.ended.code

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.ended.events

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def end(self) -> dict[str, Any]:
        [event] = self.of("end")
        return event

    @property
    def results(self) -> list[dict[str, Any]]:
        """What came of each call, flat."""
        return [{**event["result"], **event} for event in self.of("tool_result")]

    @property
    def read_by_model(self) -> list[str]:
        """What the model was told of its calls, in all."""
        return list(Conversation(self.asked[-1].messages or ()).all_results)


@dataclass(frozen=True, slots=True)
class Shop:
    """A node that runs tools below a folder of its own (`served`), the model that it serves, and who gives orders."""

    node: RunningNode
    served: Scratch
    engine: PlayedEngine
    commands: ForkedCommands
    scratches: list[Scratch]

    async def do(
        self,
        task: str,
        part: Part,
        *options: str,
        files: Mapping[str, str | bytes] | None = None,
        scratch: Scratch | None = None,
        environment: Mapping[str, str] | None = None,
        votes: int | None = 3,
        meanwhile: Callable[[int, Scratch], Awaitable[None]] | None = None,
    ) -> Job:
        """Have the agent do `task`, as which the model plays `part`; each step by so many `votes`."""
        if scratch is None:
            scratch = Scratch.make(files or {})
            self.scratches.append(scratch)
        self.engine.parts[task] = part
        before = len(self.engine.asked)
        voted = () if votes is None else ("--votes", str(votes))
        words = ["agent", task, "--json", "--url", self.node.url, *voted, *options]
        at = scratch
        ended = await self.commands.run(
            words, at, environment, None if meanwhile is None else lambda child: meanwhile(child, at)
        )
        return Job(ended, scratch, tuple(self.engine.asked[before:]))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    engine = PlayedEngine(EngineSpec("played", None, 65_536, 8, threads=1))
    served = Scratch.make({"there.txt": "on the node\n"})
    scratches = [served]
    try:
        async with (
            LocalToolHost(ToolPlan(("read", "write", "glob", "grep"), served.repository)) as host,
            RunningNode("kitchen", ready(engine), options=NodeOptions(tool_host=host)) as node,
            ForkedCommands() as commands,
        ):
            yield Shop(node, served, engine, commands, scratches)
    finally:
        for scratch in scratches:
            shutil.rmtree(scratch.folder)


async def test_a_file_is_created(shop: Shop) -> None:
    part = in_turn(call("write", path="src/hello.txt", content="hello\n"), Say("It is there."))
    job = await shop.do("create a file", part, "--yes", "write")
    assert job.code == 0, job.ended.errors
    assert job.scratch.files() == {"src/hello.txt": "hello\n"}
    kinds = [event["type"] for event in job.events]
    assert kinds[0] == "start"
    assert kinds[1:4] == ["vote", "tool_call", "tool_result"]
    assert kinds[-1] == "end"
    assert "".join(event["text"] for event in job.of("text")) == "It is there."
    assert (job.end["reason"], job.end["output"], job.end["steps"]) == ("done", "It is there.", 2)


async def test_each_step_is_voted_on(shop: Shop) -> None:
    job = await shop.do("look twice", in_turn(call("glob", pattern="*"), call("glob", pattern="**"), DONE))
    assert [event["step"] for event in job.of("vote")] == [1, 2, 3]
    assert all(event["decided"] for event in job.of("vote"))
    assert all(event["account"]["votes"] >= 2 for event in job.of("vote")[:2])
    assert [event["account"]["wanted"] for event in job.of("vote")] == [3, 3, 3]


async def test_text_is_replaced(shop: Shop) -> None:
    part = in_turn(call("edit", path="a.py", old="return 1", new="return 2"), DONE)
    job = await shop.do("edit", part, "--yes", "edit", files={"a.py": "def one():\n    return 1\n"})
    assert job.code == 0
    assert job.scratch.read("a.py") == "def one():\n    return 2\n"


async def test_several_edits_of_one_turn_follow_each_other(shop: Shop) -> None:
    """Each finds what the one before it wrote: two at once would lose one, or find nothing."""
    edits = [Call("edit", {"path": "a.txt", "old": str(n), "new": str(n + 1)}) for n in range(1, 6)]
    job = await shop.do("count up", in_turn(calls(*edits), DONE), "--yes", "edit", files={"a.txt": "1\n"})
    assert job.code == 0
    assert [result["exit_code"] for result in job.results] == [0] * 5
    assert job.scratch.read("a.txt") == "6\n"


async def test_writes_of_one_turn_come_in_their_order(shop: Shop) -> None:
    several = [Call("write", {"path": "a.txt", "content": f"{n}\n"}) for n in range(4)]
    part = in_turn(calls(*several, Call("read", {"path": "a.txt"})), DONE)
    job = await shop.do("write and look", part, "--yes", "write")
    assert job.scratch.read("a.txt") == "3\n"
    assert "3" in job.read_by_model[-1]


async def test_tests_are_run_until_they_pass(shop: Shop) -> None:
    def part(so_far: Conversation) -> Say:
        if so_far.turn == 0:
            return call("bash", command="./check.sh")
        [result] = so_far.results
        if "1 passed" in result:
            return Say("The test passes.")
        if "1 failed" in result:
            return call("read", path="sum.sh")
        if "$1 - $2" in result:
            return call("edit", path="sum.sh", old="$1 - $2", new="$1 + $2")
        return call("bash", command="./check.sh")

    files = {"check.sh": CHECK, "sum.sh": BROKEN_SUM}
    job = await shop.do("make the failing test pass", part, "--yes", "edit,bash", files=files)
    assert job.code == 0, job.ended.errors
    assert [result["tool"] for result in job.results] == ["bash", "read", "edit", "bash"]
    assert [result["exit_code"] for result in job.results] == [1, 0, 0, 0]
    assert job.scratch.files() == {"check.sh": CHECK, "sum.sh": BROKEN_SUM.replace("-", "+")}
    checked = await asyncio.create_subprocess_exec(
        "./check.sh", cwd=job.scratch.repository, stdout=asyncio.subprocess.PIPE
    )
    assert await checked.communicate() == (b"1 passed\n", None)


async def test_a_place_is_found_by_searching(shop: Shop) -> None:
    def part(so_far: Conversation) -> Say:
        if so_far.turn == 0:
            return call("grep", pattern="def needle")
        [result] = so_far.results
        if so_far.turn == 1:
            path, line = result.splitlines()[0].split(":")[:2]
            return call("read", path=path, offset=int(line), limit=1)
        return Say(f"Here: {result.splitlines()[0]}")

    hay = "".join(f"def straw_{n}(): ...\n" for n in range(40))
    files = {"a/one.py": hay, "b/two.py": f"{hay}def needle(): ...\n{hay}", "c.txt": "needles\n"}
    job = await shop.do("find the needle", part, files=files)
    assert job.code == 0, job.ended.errors
    assert [result["arguments"] for result in job.of("tool_call")][1:] == [
        {"path": "b/two.py", "offset": 41, "limit": 1}
    ]
    assert "def needle(): ..." in job.end["output"]


async def test_files_are_listed_and_read(shop: Shop) -> None:
    def part(so_far: Conversation) -> Say:
        if so_far.turn == 0:
            return call("glob", pattern="**/*.md")
        if so_far.turn == 1:
            return calls(*(Call("read", {"path": path}) for path in sorted(so_far.results[0].split())))
        return Say(" and ".join(result.split("\t")[1].strip() for result in so_far.results))

    files = {"b/two.md": "second\n", "a.md": "first\n", "code.py": "third\n"}
    job = await shop.do("what do the documents say", part, files=files)
    assert job.end["output"] == "first and second"


async def test_reads_of_one_turn_are_told_in_the_order_of_their_calls(shop: Shop) -> None:
    files = {f"{n}.txt": f"file {n}\n" * (1 + 400 * (n % 2)) for n in range(8)}
    part = in_turn(calls(*(Call("read", {"path": name}) for name in files)), DONE)
    job = await shop.do("read all", part, files=files)
    assert [told.split()[2] for told in job.read_by_model] == [str(n) for n in range(8)]
    asked = {event["call_id"]: event["arguments"]["path"] for event in job.of("tool_call")}
    assert len(asked) == 8
    for result in job.results:
        assert result["output"].startswith(f"1\tfile {asked[result['call_id']][0]}")


async def test_a_failing_command_is_mended(shop: Shop) -> None:
    def part(so_far: Conversation) -> Say:
        if so_far.turn == 0:
            return call("bash", command="make-a-list > list.txt")
        if "not found" in so_far.results[0]:
            return call("bash", command="ls *.py > list.txt")
        return DONE

    job = await shop.do("make a list", part, "--yes", "bash", files={"a.py": "", "b.py": "", "c": ""})
    assert [result["exit_code"] for result in job.results] == [127, 0]
    assert job.scratch.read("list.txt") == "a.py\nb.py\n"


@pytest.mark.parametrize("path", ["../secret.txt", "{folder}/secret.txt", "link", "/etc/passwd"])
async def test_what_lies_outside_stays_outside_and_the_model_goes_on(shop: Shop, path: str) -> None:
    scratch = Scratch.make({"inside.txt": "inside\n"})
    shop.scratches.append(scratch)
    (scratch.folder / "secret.txt").write_text("not yours")
    (scratch.repository / "link").symlink_to("../secret.txt")
    wanted = path.format(folder=scratch.folder)
    outside = calls(Call("read", {"path": wanted}), Call("write", {"path": wanted, "content": "mine"}))
    part = in_turn(outside, call("read", path="inside.txt"), DONE)
    job = await shop.do(f"look outside at {path}", part, "--yes", "write", scratch=scratch)
    assert job.code == 0, job.ended.errors
    assert [result["exit_code"] for result in job.results] == [1, 1, 0]
    remedy = "write to the file itself" if path == "link" else "leads out of the root"
    assert "leads out of the root" in job.results[0]["output"]
    assert remedy in job.results[1]["output"]
    assert (scratch.folder / "secret.txt").read_text() == "not yours"
    assert "not yours" not in job.ended.output
    assert "inside" in job.read_by_model[-1]


async def test_hooks_of_git_are_not_written(shop: Shop) -> None:
    hook = calls(
        Call("write", {"path": ".git/hooks/pre-commit", "content": "#!/bin/sh\n"}),
        Call("bash", {"command": "echo evil > .git/hooks/pre-commit"}),
    )
    files = {".git/hooks/README": "hooks\n", ".git/config": "[core]\n"}
    job = await shop.do("write a hook", in_turn(hook, DONE), "--yes", "write,bash", files=files)
    assert all(result["exit_code"] for result in job.results)
    assert job.scratch.files() == files


async def test_arguments_of_another_type_are_read_as_in_votes(shop: Shop) -> None:
    part = in_turn(call("read", path="a.txt", offset="2", limit="1"), DONE)
    job = await shop.do("read line 2", part, files={"a.txt": "one\ntwo\nthree\n"})
    [asked] = job.of("tool_call")
    assert asked["arguments"] == {"path": "a.txt", "offset": 2, "limit": 1}
    assert job.results[0]["output"].startswith("2\ttwo")


async def test_voters_that_write_a_number_differently_agree(shop: Shop) -> None:
    answers = (call("read", path="a.txt", offset=2), call("read", path="a.txt", offset="2"))
    job = await shop.do("read from 2", in_turn(Turn(answers, again=True), DONE), files={"a.txt": "one\ntwo\n"})
    account = job.of("vote")[0]["account"]
    assert account["agreement"] == 1
    assert job.results[0]["output"].startswith("2\ttwo")


async def test_texts_are_executed_to_the_letter(shop: Shop) -> None:
    """A vote compares texts in one form of their accents; a file that has the other form does not contain it."""
    apart, composed = "cafe\u0301", "caf\u00e9"
    part = in_turn(
        call("edit", path="a.txt", old=f"{apart} one", new=f"{apart} two"),
        calls(Call("write", {"path": f"{apart}.txt", "content": apart}), Call("grep", {"pattern": apart})),
        DONE,
    )
    files = {"a.txt": f"{composed} one\n{apart} one\n"}
    job = await shop.do("mind the accents", part, "--yes", "edit,write", files=files)
    assert job.scratch.files() == {"a.txt": f"{composed} one\n{apart} two\n", f"{apart}.txt": apart}
    assert composed not in job.read_by_model[-1]


async def test_bad_arguments_are_told_and_put_right_by_the_model(shop: Shop) -> None:
    def part(so_far: Conversation) -> Say:
        if so_far.turn == 0:
            return call("read", file="a.txt")
        return DONE if "one" in so_far.results[0] else call("read", path="a.txt")

    job = await shop.do("read by another name", part, files={"a.txt": "one\n"})
    first, second = job.results
    assert not first["executed"]
    assert "path" in first["output"]
    assert second["executed"]
    assert job.code == 0


async def test_arguments_that_are_no_json_are_told(shop: Shop) -> None:
    part = in_turn(Say(calls=(Call("read", '{"path": "a.txt'),)), call("read", path="a.txt"), DONE)
    job = await shop.do("stop in the middle", part, files={"a.txt": "one\n"}, votes=None)
    assert [result["executed"] for result in job.results] == [False, True]
    assert job.code == 0


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(shop: Shop) -> None:
    duration = str(SECONDS_OF_THIS_RUN)
    command = f"(setsid sleep {duration} &) ; sleep {duration}"
    part = in_turn(call("bash", command=command, timeout_s=1), call("bash", command="echo on"), DONE)
    job = await shop.do("wait for ever", part, "--yes", "bash")
    first, second = job.results
    assert first["timed_out"]
    assert "[ended: the time was up" in job.read_by_model[0]
    assert (second["exit_code"], second["output"].strip()) == (0, "on")
    assert not running(duration)


async def test_a_voter_that_would_destroy_is_outvoted(shop: Shop) -> None:
    good, bad = call("bash", command="rm -r build"), call("bash", command="rm -r .")
    files = {"build/a.o": "", "src/a.c": "int a;\n"}
    part = in_turn(Turn((good, bad, good)), DONE)
    job = await shop.do("clean up", part, "--yes", "bash", files=files, votes=5)
    assert job.scratch.files() == {"src/a.c": "int a;\n"}
    account = job.of("vote")[0]["account"]
    assert account["outcome"] == "consensus"
    assert account["votes"] >= 4
    assert len({each["group"] for each in account["candidates"] if each["group"] is not None}) == 2


async def test_the_greedy_voter_is_outvoted_too(shop: Shop) -> None:
    bad, good = call("write", path="a.txt", content="bad"), call("write", path="a.txt", content="good")
    job = await shop.do("be careful", in_turn(Turn((bad, good)), DONE), "--yes", "write", votes=5)
    assert job.scratch.files() == {"a.txt": "good"}


async def test_an_undecided_step_is_not_taken_and_ends_with_3(shop: Shop) -> None:
    split = Turn((call("bash", command="touch one"), call("bash", command="touch two")), again=True)
    job = await shop.do("one or two", in_turn(split, DONE), "--yes", "all", "--ahead", "3", votes=None)
    assert job.code == 3
    assert job.scratch.files() == {}
    assert job.end["reason"] == "undecided"
    [vote] = job.of("vote")
    assert (vote["decided"], vote["account"]["outcome"]) == (False, "undecided")
    assert not job.of("tool_call")


async def test_a_race_ends_when_one_is_ahead(shop: Shop) -> None:
    good, bad = call("write", path="a.txt", content="good"), call("write", path="a.txt", content="bad")
    part = in_turn(Turn((good, bad, good)), DONE)
    job = await shop.do("race", part, "--yes", "write", "--ahead", "2", votes=None)
    assert job.code == 0
    assert job.scratch.files() == {"a.txt": "good"}
    assert job.of("vote")[0]["account"]["outcome"] != "undecided"


async def test_what_nobody_allowed_does_not_run(shop: Shop) -> None:
    part = in_turn(calls(Call("write", {"path": "a.txt", "content": ""}), Call("glob", {"pattern": "*"})), DONE)
    job = await shop.do("write without leave", part, files={"b.txt": ""})
    assert job.code == 0
    assert job.scratch.files() == {"b.txt": ""}
    refused, listed = sorted(job.results, key=lambda result: result["executed"])
    assert (refused["tool"], refused["executed"]) == ("write", False)
    assert "not executed" in job.read_by_model[0]
    assert "nobody is there" in job.read_by_model[0]
    assert (listed["tool"], listed["exit_code"]) == ("glob", 0)


async def test_a_grant_is_for_the_tools_that_it_names(shop: Shop) -> None:
    both = calls(Call("bash", {"command": "touch by-bash"}), Call("write", {"path": "by-write", "content": ""}))
    job = await shop.do("use both", in_turn(both, DONE), "--yes", "bash")
    assert job.scratch.files() == {"by-bash": ""}


async def test_all_may_be_granted(shop: Shop) -> None:
    both = calls(Call("bash", {"command": "touch by-bash"}), Call("write", {"path": "by-write", "content": ""}))
    job = await shop.do("use all", in_turn(both, DONE), "--yes", "all")
    assert job.scratch.files() == {"by-bash": "", "by-write": ""}


async def test_an_agent_that_never_ends_is_ended(shop: Shop) -> None:
    def part(so_far: Conversation) -> Say:
        return call("bash", command=f"echo {so_far.turn} >> log")

    job = await shop.do("go on for ever", part, "--yes", "bash", "--max-turns", "4")
    assert job.code == 1
    assert (job.end["reason"], job.end["steps"]) == ("max_turns", 4)
    assert job.scratch.read("log") == "0\n1\n2\n3\n"


async def test_a_flood_is_cut_to_its_head_and_tail(shop: Shop) -> None:
    part = in_turn(call("bash", command="seq 1 3000000"), DONE)
    job = await shop.do("count to three million", part, "--yes", "bash")
    [result] = job.results
    assert (result["exit_code"], result["truncated"]) == (0, True)
    assert len(result["output"]) <= OUTPUT_WITH_REMARK_CHARS
    lines = result["output"].splitlines()
    assert (lines[0], lines[-1]) == ("1", "3000000")
    assert len(job.read_by_model[0]) <= OUTPUT_WITH_REMARK_CHARS


async def test_an_unknown_tool_is_told_with_the_nearest(shop: Shop) -> None:
    part = in_turn(call("reed", path="a.txt"), call("read", path="a.txt"), DONE)
    job = await shop.do("read by a wrong name", part, files={"a.txt": "one\n"})
    assert [result["executed"] for result in job.results] == [False, True]
    assert "there is no tool 'reed': did you mean read?" in job.read_by_model[0]


async def test_thoughts_are_told_apart_from_words(shop: Shop) -> None:
    first = calls(Call("glob", {"pattern": "*"}), text="I look first.", thinking="What is here?")
    job = await shop.do("think first", in_turn(first, Say("Nothing is.", thinking="It is empty.")))
    assert "".join(event["text"] for event in job.of("thinking") if event["step"] == 1) == "What is here?"
    assert job.end["output"] == "Nothing is."
    assert "What is here?" not in json.dumps(job.of("text"))


async def test_commands_see_no_secrets_and_no_network(shop: Shop) -> None:
    """What the agent has in its environment, and what listens on this machine."""
    address = f"127.0.0.1/{shop.node.address.port}"
    ask = f"env; cat /proc/self/environ; (exec 3<>/dev/tcp/{address}) && echo reached || echo 'no way'"
    secrets = {"SWARM_API_KEY": "key-of-the-swarm", "OPENAI_API_KEY": "key-of-openai", "AWS_SESSION_TOKEN": "token-x"}
    job = await shop.do("look around", in_turn(call("bash", command=ask), DONE), "--yes", "bash", environment=secrets)
    [result] = job.results
    assert result["output"].rstrip().endswith("no way")
    for name, value in secrets.items():
        assert name not in result["output"]
        assert value not in job.ended.output


async def test_words_in_a_file_do_not_reach_the_terminal_as_commands(shop: Shop) -> None:
    part = in_turn(calls(Call("read", {"path": "a.txt"}), Call("bash", {"command": "cat a.txt"})), DONE)
    job = await shop.do("read what blinks", part, "--yes", "bash", files={"a.txt": "\x1b[2Jgone\u202e\n"})
    assert all("\x1b" not in told and "\u202e" not in told and "gone" in told for told in job.read_by_model)


async def test_a_session_is_taken_up_again(shop: Shop) -> None:
    task = "remember the number"
    first = await shop.do(task, in_turn(call("write", path="n", content="17"), Say("I wrote it.")), "--yes", "write")
    name = first.of("start")[0]["session"]

    def part(so_far: Conversation) -> Say:
        if so_far.turn == 2:
            return call("read", path="n")
        return Say(f"It is {so_far.results[0].split()[-1]}.")

    shop.engine.parts[task] = part  # a conversation's part is that of its first words
    more = await shop.do("which was it", part, "--resume", name, scratch=first.scratch)
    assert more.code == 0, more.ended.errors
    assert more.end["output"] == "It is 17."
    asked = Conversation(more.asked[0].messages or ())
    assert asked.said == (task, "which was it")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
async def test_an_agent_that_is_ended_takes_its_command_along_and_can_be_taken_up(
    shop: Shop, number: signal.Signals
) -> None:
    """A call that was under way has a result when the session goes on: a model may not be asked without one."""
    task, duration = f"be ended by {number.name}", str(SECONDS_OF_THIS_RUN + number)

    async def end(child: int, scratch: Scratch) -> None:
        await eventually((scratch.repository / "begun").exists)
        os.kill(child, number)

    part = in_turn(call("bash", command=f"touch begun; (setsid sleep {duration} &); sleep {duration}"), DONE)
    first = await shop.do(task, part, "--yes", "bash", meanwhile=end)
    assert first.code == (1 if number == signal.SIGINT else -9)
    await eventually(lambda: not running(duration))
    more = await shop.do("go on", in_turn(), "--resume", first.of("start")[0]["session"], scratch=first.scratch)
    assert more.code == 0, more.ended.errors
    [told] = more.read_by_model
    assert "not executed" not in told
    assert ("aborted while it ran" if number == signal.SIGINT else "may have been executed") in told
    if number == signal.SIGINT:
        assert (first.end["reason"], first.results[0]["exit_code"]) == ("aborted", 126)


def running(word: str) -> list[list[str]]:
    """The command lines of the processes that have `word` among their arguments."""
    return [found for each in psutil.process_iter(["cmdline"]) if word in (found := each.info["cmdline"] or [])]


async def test_a_conversation_that_is_too_long_is_an_error_that_names_both_numbers(shop: Shop) -> None:
    engine = PlayedEngine(EngineSpec("played", None, 700, 8, threads=1))
    engine.parts["fill"] = in_turn(call("bash", command="yes | head -n 1000"))
    async with RunningNode("attic", ready(engine)) as small:
        job = await shop.do("fill", in_turn(), "--url", small.url, "--yes", "bash")
    assert job.code == 1
    [error] = job.of("error")
    assert "tokens and the context holds 700" in error["message"]


async def test_a_node_that_is_gone_is_an_error_with_the_remedy(shop: Shop) -> None:
    async with RunningNode("attic", ready(PlayedEngine(EngineSpec("played", None, 700, 8, threads=1)))) as other:
        url = other.url
    job = await shop.do("ask nobody", in_turn(), "--url", url)
    assert job.code == 1
    [error] = job.of("error")
    assert error["message"].startswith(f"no node answers at {url}")
    assert "onnection error" not in error["message"], "that says nothing"
    assert "--url" in error["message"]


async def test_a_model_that_fails_is_an_error_and_ends_with_1(shop: Shop) -> None:
    job = await shop.do("break", in_turn(call("glob", pattern="*")))
    assert job.code == 1
    [error] = job.of("error")
    assert "the part has 1 turns" in error["message"]
    assert job.end["reason"] == "failed"
    assert "Traceback" not in job.ended.errors


async def test_the_tools_may_be_those_of_the_node(shop: Shop) -> None:
    """What is written lies there, and nothing here; its root holds against this client as against others."""
    (shop.served.folder / "secret.txt").write_text("not yours")
    outside, unknown_here = call("read", path="../secret.txt"), call("bash", command="id")
    more = calls(Call("read", {"path": "there.txt"}), Call("write", {"path": "new.txt", "content": "from afar\n"}))
    job = await shop.do("work on the node", in_turn(outside, unknown_here, more, DONE), "--tool-host", "--yes", "all")
    assert job.code == 0, job.ended.errors
    assert job.of("start")[0]["tools"] == ["read", "write", "glob", "grep"]
    refused, unknown, read, wrote = job.results
    assert "leads out of the root" in refused["output"]
    assert (unknown["tool"], unknown["executed"]) == ("bash", False)
    assert read["output"] == "1\ton the node"
    assert wrote["exit_code"] == 0
    assert shop.served.read("new.txt") == "from afar\n"
    assert job.scratch.files() == {}
    assert "not yours" not in job.ended.output


async def test_a_node_without_tools_is_told_with_the_remedy(shop: Shop) -> None:
    engine = PlayedEngine(EngineSpec("played", None, 1024, 2, threads=1))
    async with RunningNode("attic", ready(engine)) as other:
        job = await shop.do("work elsewhere", in_turn(DONE), "--tool-host", other.url, "--yes", "all")
    assert job.code == 2
    assert "--tools" in job.ended.errors
    assert not job.asked
