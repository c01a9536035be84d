"""`swarm invite`, `join CODE`, `leave`, `peers`, `revoke ID` and `page`: what only the owner of a node may do.

Each asks the node that runs with the data directory, which it finds through the file that the node keeps there. Where
none runs, all but `invite` and `page` work on the data directory itself.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import BaseModel, ValidationError

from federation.printable_text import aligned, one_line
from swarm.commands.output import complain, is_terminal, read_standard_input, say, write
from swarm.commands.status import SHOWN_ID_CHARS
from swarm.control_messages import (
    CONTROL_FILE,
    INVITE_PATH,
    JOIN_PATH,
    MAX_WHO_CHARS,
    PAGE_PATH,
    PEERS_PATH,
    REVOKE_PATH,
    WITHDRAW_PATH,
    ControlFile,
    InviteBody,
    Invited,
    JoinBody,
    Joined,
    KnownCode,
    KnownNode,
    KnownNodes,
    PageBody,
    PageLink,
    Refused,
    RevokeBody,
    Revoked,
    WithdrawBody,
    Withdrawn,
)
from swarm.errors import SetupError, SwarmError
from swarm.node.folder import folder_at_rest
from swarm.node.pairing import join_at_rest, matching, peers_at_rest, revoke_at_rest

CONNECT_S = 5.0
ANSWER_S = 60.0  # joining tries four addresses for five seconds each
MAX_FILE_BYTES = 4096  # of the control file
FROM_STANDARD_INPUT = "-"
MAX_TYPED_CHARS = 4096  # of a code, far beyond any

M = TypeVar("M", bound=BaseModel)


def find_node(data_dir: Path) -> ControlFile | None:
    """The node that runs with `data_dir`; None if none does. Raises SetupError for a file that is not readable."""
    path = data_dir / CONTROL_FILE
    try:
        with path.open("rb") as file:
            found = ControlFile.model_validate_json(file.read(MAX_FILE_BYTES))
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise SetupError(
            f"cannot read {path} ({error.strerror}): only the user who runs the node may do this"
        ) from error
    return found if psutil.pid_exists(found.pid) else None  # a killed node leaves its file behind


def ask_node(node: ControlFile, path: str, reply: type[M], body: BaseModel | None = None) -> M | None:
    """The node's reply; None where nobody listens any more.

    Raises SetupError or SwarmError with the node's own message where it refuses, SwarmError where it breaks off.
    """
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=CONNECT_S)  # unlike urllib, by no proxy
    try:
        try:
            connection.connect()
        except OSError:
            return None
        connection.sock.settimeout(ANSWER_S)
        headers = {"Authorization": f"Bearer {node.secret}", "Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        connection.request(method, path, None if body is None else body.model_dump_json(), headers)
        response = connection.getresponse()
        raw = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise SwarmError(f"the node on this machine broke off: {error or type(error).__name__}") from error
    finally:
        connection.close()
    try:
        if response.status == 200:
            return reply.model_validate_json(raw)
        refused = Refused.model_validate_json(raw)
    except ValidationError as error:
        raise SwarmError(
            f"the node on this machine answered {response.status}, and not in a form known here"
        ) from error
    raise (SetupError if refused.exit_code == 2 else SwarmError)(refused.message)


def ask_running(data_dir: Path, path: str, reply: type[M], body: BaseModel | None = None) -> M | None:
    """The reply of the node that runs with `data_dir`; None if none does. Raises as `find_node` and `ask_node`."""
    node = find_node(data_dir)
    return None if node is None else ask_node(node, path, reply, body)


def as_json(message: BaseModel) -> str:
    """For --json."""
    shown: dict[str, Any] = message.model_dump(mode="json")
    return json.dumps(shown, indent=2)


def invite(data_dir: Path, json: bool, uses: int = 1, life_s: float | None = None, *, qr: bool = False) -> int:
    """Print a code with which `uses` more nodes may join, for `life_s` or as long as the node gives; as a QR code, too.

    Raises SetupError where no node runs.
    """
    invited = ask_running(data_dir, INVITE_PATH, Invited, InviteBody(uses=uses, life_s=life_s))
    if invited is None:
        raise SetupError(_no_node_runs(data_dir))
    if invited.uses != uses or life_s not in (None, invited.life_s):
        raise SwarmError(
            "the node that runs here is an older version, which makes codes for one machine and ten minutes only: "
            "restart it, then invite again"
        )
    say(as_json(invited) if json else invite_text(invited))
    if qr:
        show_qr(invited.code)
    return 0


def show_qr(code: str) -> None:
    """Draw an invitation as a QR code. In capitals, which `swarm join` takes, too: they need fewer modules."""
    from swarm.qr import qr_rows, qr_text

    write(sys.stdout, f"\n{qr_text(qr_rows(code.upper()), colours=is_terminal(sys.stdout))}\n")


def _no_node_runs(data_dir: Path) -> str:
    return (
        f"no node runs here with {data_dir}, so there is none that another machine could join: "
        "start one with `swarm --federation`, then invite (--data-dir, if you gave it one)"
    )


def invite_text(invited: Invited) -> str:
    many = invited.uses > 1
    where = ", ".join(invited.addresses)
    lines = [
        f"On {'each machine' if many else 'the machine'} that is to join {invited.node}:",
        "",
        f"  swarm join {invited.code}",
        "",
        f"Good {f'for {invited.uses} machines' if many else 'once'}, for {span(invited.life_s)}; whoever has it may "
        f"join. It leads to {where}.",
    ]
    if many:
        lines.append(
            f"It ends with this node, too. `swarm invite --list` shows who used it, `swarm invite --withdraw "
            f"{invited.id}` ends it."
        )
    if invited.was_open:
        lines.append(
            f"{invited.node} is paired from now on: open nodes get nothing from it any more. Invite each of your nodes."
        )
    return "\n".join(map(one_line, lines))


def list_codes(data_dir: Path, json: bool) -> int:
    """Print the codes that the running node gave out and whose time is not over. Raises SetupError where none runs."""
    found = ask_running(data_dir, PEERS_PATH, KnownNodes)
    if found is None:
        raise SetupError(_no_node_runs(data_dir))
    if json:
        say(as_json(Withdrawn(codes=found.codes)))
    else:
        say("\n".join(code_lines(found.codes)) or "no code is good now: `swarm invite` makes one")
    return 0


def code_lines(codes: Sequence[KnownCode]) -> list[str]:
    """One line for each."""
    lines: list[str] = []
    for code in codes:
        used_by = f"; used by {', '.join(code.joined)}" if code.joined else ""
        left = f"{code.uses_left} of {code.uses} uses left" if code.uses_left else "used up"
        lines.append(one_line(f"code {code.id}: {left}, ends in {span(code.ends_in_s)}{used_by}"))
    return lines


def withdraw(data_dir: Path, which: str, json: bool) -> int:
    """End codes: one by its text or its id, or `all`. Raises SetupError for none such, and where no node runs."""
    which = which.strip()
    if not 1 <= len(which) <= MAX_TYPED_CHARS:
        raise SetupError("say which code to end: its text, its id, or `all`; `swarm invite --list` shows them")
    ended = ask_running(data_dir, WITHDRAW_PATH, Withdrawn, WithdrawBody(code=which))
    if ended is None:
        raise SetupError(f"no node runs here with {data_dir}: its codes ended with it")
    say(as_json(ended) if json else withdrawn_text(ended))
    return 0


def withdrawn_text(ended: Withdrawn) -> str:
    lines = [f"Code {code.id} ended: nobody joins by it any more." for code in ended.codes]
    joined = [name for code in ended.codes for name in code.joined]
    if joined:
        lines.append(f"Who joined by it stays a member: {', '.join(joined)} (`swarm revoke NAME`).")
    return "\n".join(map(one_line, lines)) or "There was no code to end."


def join(data_dir: Path, words: list[str], json: bool) -> int:
    """Make this machine's node, running or not, a member; `-` reads the code from standard input, unseen by `ps`."""
    code = read_standard_input(MAX_TYPED_CHARS) if words == [FROM_STANDARD_INPUT] else "".join(words)
    if len(code) > MAX_TYPED_CHARS:
        raise SetupError("this is not an invitation: `swarm invite` prints one word")
    joined = ask_running(data_dir, JOIN_PATH, Joined, JoinBody(code=code))
    if joined is None:
        with folder_at_rest(data_dir):
            joined = join_at_rest(data_dir, code)
    say(as_json(joined) if json else join_text(joined))
    return 0


def join_text(joined: Joined) -> str:
    others = ", ".join(joined.members)
    lines = [f"Joined the swarm of {joined.inviter}; members beside this node: {others}."]
    if joined.already:
        lines = [f"This node is a member of that swarm already, with {others}."]
    if not joined.running:
        lines.append("No node runs here now: start it with `swarm --federation`.")
    elif not joined.federated:
        lines.append("The node that runs here takes part in no federation: start it again with `swarm --federation`.")
    if joined.clock_ahead_s is not None:
        way = "ahead of" if joined.clock_ahead_s > 0 else "behind"
        lines.append(
            f"This machine's clock is {duration(abs(joined.clock_ahead_s))} {way} {joined.inviter}'s. "
            "The swarm does not mind; downloads and logs may: set it."
        )
    return "\n".join(map(one_line, lines))


def duration(seconds: float) -> str:
    """Roughly, for people."""
    for unit, length_s in (("year", 31_557_600), ("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}s"
    return f"{seconds:.0f} seconds"


def span(seconds: float) -> str:
    """To the minute, and to the second below one, for people."""
    left, parts = max(0, round(seconds)), list[str]()
    left = round(left / 60) * 60 if left >= 60 else left
    for unit, length_s in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, length_s)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return " ".join(parts) or "0 seconds"


def peers(data_dir: Path, json: bool) -> int:
    """Print the members, with their states where a node runs."""
    found = ask_running(data_dir, PEERS_PATH, KnownNodes) or peers_at_rest(data_dir)
    say(as_json(found) if json else peers_text(found))
    return 0


def peers_text(found: KnownNodes) -> str:
    trust = "open: any node on the network may join" if found.mode == "open" else f"paired, swarm {found.swarm}"
    rows = [(found.name, found.id[:SHOWN_ID_CHARS], "this node", f"({trust})")]
    rows += [_row(known, found.running) for known in (*found.nodes, *found.revoked)]
    lines = aligned(rows)
    if found.problem is not None:
        lines.insert(1, f"! {found.problem}")
    if not found.nodes:
        lines.append("nobody else" + ("" if found.mode == "open" else " yet: `swarm invite`"))
    lines += code_lines(found.codes)
    if not found.running:
        lines.append("No node runs here now; this is from its data directory.")
    return "\n".join(map(one_line, lines))


def _row(known: KnownNode, running: bool) -> tuple[str, str, str, str]:
    state = known.state if running or known.state == "revoked" else "not asked"
    more = ", ".join(known.addresses) if known.by is None else f"by {known.by}"
    return known.name, known.id[:SHOWN_ID_CHARS], state, more


def confirmed(question: str, yes: bool) -> bool:
    """Whether whoever gave the command means it. Raises SetupError where nobody can be asked."""
    if yes:
        return True
    if not is_terminal(sys.stdin):
        raise SetupError("this asks first, and there is no terminal to ask at: add --yes if it is meant")
    complain(f"{question} [y/N] ", end="")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    complain("Nothing has changed.")
    return False


def revoke(data_dir: Path, who: str, yes: bool, json: bool) -> int:
    """End the membership of `who`: an id, its beginning, or a name; this node's own id makes it leave the swarm."""
    if not 1 <= len(who.strip()) <= MAX_WHO_CHARS:
        raise SetupError("say whom to revoke: a node id, its beginning, or a name; `swarm peers` shows them")
    if not yes:
        known = _known(data_dir)
        ids = matching([(known.id, known.name), *((node.id, node.name) for node in known.nodes)], who)
        if known.mode == "paired" and len(ids) == 1:
            who = ids[0]  # what was asked about, whatever is called so a moment later
            if not confirmed(leave_question(known) if who == known.id else revoke_question(known, who), yes):
                return 1
    return _revoke(data_dir, who, json)


def leave(data_dir: Path, yes: bool, json: bool) -> int:
    """Make this machine's node leave its swarm, and tell the other members. Raises SetupError for an open one."""
    known = _known(data_dir)
    if known.mode == "open":
        raise SetupError("this node is open: there is no swarm that it could leave")
    if not confirmed(leave_question(known), yes):
        return 1
    return _revoke(data_dir, known.id, json)


def _known(data_dir: Path) -> KnownNodes:
    return ask_running(data_dir, PEERS_PATH, KnownNodes) or peers_at_rest(data_dir)


def revoke_question(known: KnownNodes, node_id: str) -> str:
    node = next(node for node in known.nodes if node.id == node_id)
    state = f", {node.state}" if known.running else ""
    return f"Revoke {node.name} ({node.id[:SHOWN_ID_CHARS]}{state})? It is cut off at once, and needs a new code."


def leave_question(known: KnownNodes) -> str:
    others = ", ".join(node.name for node in known.nodes) or "nobody else"
    return f"Leave the swarm with {others}? {known.name} needs a new code to come back."


def _revoke(data_dir: Path, who: str, json: bool) -> int:
    revoked = ask_running(data_dir, REVOKE_PATH, Revoked, RevokeBody(who=who))
    if revoked is None:
        with folder_at_rest(data_dir):
            revoked = revoke_at_rest(data_dir, who)
    say(as_json(revoked) if json else revoke_text(revoked))
    return 0


def revoke_text(revoked: Revoked) -> str:
    if revoked.itself:
        now = "stays closed to other nodes, because it has an API key" if revoked.closed else "is open again"
        lines = [f"{revoked.name} has left its swarm and {now}. It keeps its id."]
        if revoked.told:
            lines.append(f"Informed: {', '.join(revoked.told)}.")
        if revoked.untold:
            first = revoked.untold[0]
            lines.append(
                f"Not reached: {', '.join(revoked.untold)}. They go on looking for it until one of them hears of it: "
                f"`swarm revoke {revoked.name}` there, on {first} for instance."
                if not revoked.told
                else f"Not reached now: {', '.join(revoked.untold)}; the others pass it on."
            )
        return "\n".join(map(one_line, lines))
    lines = [f"{revoked.name} ({revoked.id}) is revoked: it gets nothing from this node any more."]
    for code in revoked.codes:
        lines.append(f"Code {code} is withdrawn, because it knows that: `swarm invite` makes a new one.")
    if revoked.knows:
        lines.append("It has been informed, and says whom to ask for a new code.")
    if revoked.told:
        lines.append(f"Informed: {', '.join(revoked.told)}.")
    if revoked.untold:
        lines.append(
            f"Not reached now: {', '.join(revoked.untold)}; each is informed as soon as it meets a member that knows."
        )
    return "\n".join(map(one_line, lines))


# The page


def open_page(data_dir: Path, lan: bool, browser: bool, json: bool) -> int:
    """Print a link that opens the running node's page as its owner, once, and open it. Raises SetupError: none runs."""
    node = find_node(data_dir)
    try:
        link = None if node is None else ask_node(node, PAGE_PATH, PageLink, PageBody(lan=lan))
    except SwarmError as error:
        if str(error).endswith("not in a form known here"):
            raise SwarmError("the node that runs here is an older version, which has no page: restart it") from error
        raise
    if link is None:
        raise SetupError(
            f"no node runs here with {data_dir}, so there is no page to open: start one with `swarm` (--data-dir, if "
            "you gave it one)"
        )
    if json:
        say(as_json(link))
        return 0
    say(link.url)
    complain("\n".join(map(one_line, page_lines(link))))
    if browser and not lan and has_desktop(os.environ, sys.platform):
        _open_browser(link.url)
    return 0


def page_lines(link: PageLink) -> list[str]:
    """What is said of a link, on standard error: the link alone is the output."""
    lines = [f"Opens the page of {link.node} as its owner, once, within {span(link.life_s)}."]
    if link.lan:
        lines.append(
            "It goes over the network UNENCRYPTED: whoever listens there can take over what it opens, for twelve "
            "hours. Use it on a network that you trust, and end the session on the page when you are done."
        )
    return lines


def has_desktop(environ: Mapping[str, str], platform: str) -> bool:
    """Whether a browser of this machine would be seen by whoever gave the command: not over SSH."""
    if "SSH_CONNECTION" in environ or "SSH_TTY" in environ:
        return False
    return platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def _open_browser(url: str) -> None:
    import webbrowser  # takes 20 ms, and few commands need it

    try:
        opened = webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    if not opened:
        complain("No browser could be started here: open the link by hand.")
