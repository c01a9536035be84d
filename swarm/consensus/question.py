"""What is being voted on: the parts of a request that decide how its answers are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import JsonValue

from swarm.consensus.options import Kind, Strategy
from swarm.consensus.text_answer import Likenesses
from swarm.generation import Candidate, GenerationRequest, ResponseFormat, ToolSpec

if TYPE_CHECKING:
    from swarm.consensus.answers import Flaw
    from swarm.consensus.reading import Reading

MAX_SEARCHED_CHARS = 200_000  # of each message: an instruction about the answer's form is not buried deeper
ENDS_CHARS = 4_000  # of a message at each end are searched for what can be counted: there it says what it wants
MAX_PLAIN_CHARS = 2_000  # of a question that only ends in "Answer:": longer ones quote a text and ask about it in prose

_WITH_A_VALUE = (
    r"\b(?:answer|reply|respond)\s+(?:only\s+)?with\s+(?:only\s+|just\s+)?(?:an?|the|one|a single)\s+"
    r"(?:single\s+|correct\s+|final\s+)?(?:number|integer|digit|letter|option)\b"
    r"|\b(?:answer|reply|respond)\s+(?:only\s+)?(?:with\s+)?(?:only\s+|just\s+)?[\"'\u201c]?"
    r"(?:yes[\"'\u201d]?(?:\s+or\s+|\s?/\s?)[\"'\u201c]?no|true[\"'\u201d]?(?:\s+or\s+|\s?/\s?)[\"'\u201c]?false)\b"
)
# Lettered options, each on its own line, or `A) ... B) ...` in one; they are options where one is to be picked.
_OPTIONS = re.compile(
    r"^[ \t]{0,8}\(?A[).:][ \t]\S.{0,400}\n(?:.{0,400}\n){0,3}?[ \t]{0,8}\(?B[).:][ \t]\S"
    r"|\bA\)\s?\S.{0,80}?\s\(?B\)\s?\S",
    re.MULTILINE,
)
_PICK = re.compile(
    r"\bwhich\b|\b(?:choose|select|pick)\b|\bmultiple[- ]choice\b"
    r"|\b(?:correct|best|right)\s+(?:answer|option|choice)\b",
    re.IGNORECASE,
)
# Nothing but a sum, and maybe "what is": its answer can only be a number.
_SUM = re.compile(
    r"\s{0,8}(?P<told>what\s+is|what's|how\s+much\s+is|compute|calculate|evaluate|solve)?\s{0,8}:?"
    r"(?P<sum>[\d\s.,()+*/^%\u00d7\u00f7\u2212-]{3,200})(?P<equals>=\s{0,4})?\??\s{0,8}",
    re.IGNORECASE,
)
_NO_PART_OF_A_DATE = frozenset("+*^\u00d7\u00f7")
_OPERATION = re.compile(r"[\d)]\s{0,4}[+*/^%\u00d7\u00f7\u2212-]\s{0,4}[\d(]")
# A value, or a mark for one. `####` is a Markdown heading too: it needs "answer" near.
_MARKED = rf"\\boxed\b|{_WITH_A_VALUE}|(?<!#)####.{{0,80}}\banswer\b|\banswer\b.{{0,80}}####"
# An explicit request for a final answer that can be counted.
_ASKS_FOR_FINAL_ANSWER = re.compile(
    rf"{_MARKED}"
    r"|\banswer[*_]{0,4}\s{0,2}[:\uff1a]"
    r"|\bfinal answer\b",
    re.IGNORECASE,
)
# The same, where it cannot be meant of prose: "Answer:" ends many a prompt that wants a paragraph.
_ASKS_FOR_A_VALUE = re.compile(
    rf"{_MARKED}"
    r"|\banswer[*_]{0,4}\s{0,2}[:\uff1a]\s{0,2}[*_`]{0,3}[<\[{(]"
    r"|\b(?:end|finish|conclude|close)\s{1,2}(?:\w{1,20}\s{1,2}){0,3}(?:with|by)\b.{0,40}\banswer[*_]{0,4}\s{0,2}[:\uff1a]"
    r"|\bfinal answer\b.{0,60}\b(?:number|integer|digits?|numeral|letter|option)\b"
    r"|\b(?:number|integer|digits?|numeral|letter|option)\b.{0,60}\bfinal answer\b",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"\bhow\s+(?:many|much|old|far|long|tall|fast|often)\b|\b(?:calculate|compute|solve)\b|\bsum\b|\btotal\b|\bpercent",
    re.IGNORECASE,
)
# A programming language by its name; those that are words of English too count with their capital only.
_LANGUAGE = re.compile(
    r"(?i:\b(?:python3?|javascript|typescript|node\.?js|sql|sqlite|postgresql|mysql|bash|shell|powershell|golang|kotlin"
    r"|haskell|php|perl|scala|julia|lua|html|css|regex|regular\s+expression)\b|\bc\+\+|\bc#)"
    r"|\b(?:Go|Rust|Swift|Java|Ruby|Dart|Zig|C|R)\b(?![+#'])"
)
_CODE = re.compile(
    r"\b(?:functions?|methods?|class|classes|program|script|code|snippet|query|regex|regular\s+expression|module|decorator"
    r"|one-liner|unit\s+tests?|algorithm|implementation|struct|loop|command)\b",
    re.IGNORECASE,
)
_WRITE_CODE = re.compile(
    r"(?:^|[.!?:,]\s|\n)\s{0,8}(?:please\s+|can\s+you\s+|could\s+you\s+)?(?P<verb>write|implement|code|create|generate"
    r"|give\s+me|show\s+me|complete|refactor|rewrite|convert|translate|port)\b(?P<rest>[^.!?\n]{1,200})",
    re.IGNORECASE,
)
_NOT_CODE = re.compile(
    r"\b(?:story|poem|essay|article|blog|post|e-?mail|letter|joke|song|speech|summary|report|explanation|introduction"
    r"|tutorial|lesson|comparison|review|history)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    """How one request's answers are to be compared. Made of a request by `Question.of`.

    `tools` is empty where the client forbade calls. `wants_final_answer`: the client asked for an answer that can be
    counted (a number, a letter), so bare ones are recognised too and code blocks beside them do not change the kind.
    `wants_value`: so plainly that nothing else can be meant; `wants_code`: a program is asked for.
    `by_confidence`: votes weigh by how sure their model was (`confidence.py`).
    `readings` remembers what `reading.read` made of each candidate, by its id(), and `likenesses` how alike two answers
    are, so that a tally on every arrival looks at each answer once; they live and die with the request.
    """

    strategy: Strategy
    tools: tuple[ToolSpec, ...] = ()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    wants_final_answer: bool = False
    wants_value: bool = False
    wants_code: bool = False
    by_confidence: bool = False
    readings: dict[int, tuple[Candidate, Reading | Flaw]] = field(
        default_factory=dict[int, "tuple[Candidate, Reading | Flaw]"], init=False, repr=False, compare=False
    )
    likenesses: Likenesses = field(default_factory=Likenesses, init=False, repr=False, compare=False)

    @property
    def wants_json(self) -> bool:
        """The client demanded JSON: whatever is not JSON of that form abstains."""
        return self.response_format is not None and self.response_format.is_json

    @property
    def countable(self) -> bool:
        """Whether its answers can be told equal or not, as far as the request says: else, and in doubt, it is prose."""
        return bool(self.tools) or self.wants_json or self.wants_value or self.wants_code

    @property
    def expected_kind(self) -> Kind:
        """The kind that answers will most likely be, as far as the request says."""
        if self.tools:
            return "tool_calls"
        if self.wants_json:
            return "json"
        if self.wants_final_answer:
            return "number"
        return "code" if self.wants_code else "text"

    @property
    def may_settle_early(self) -> bool:
        """Whether it can be known before all answers are in which one wins: something countable was asked for.

        What is chosen by likeness stands only when everybody has answered; what is weighed by confidence also where
        the least that can decide say the same.
        """
        counted = self.tools or self.wants_json or self.wants_final_answer
        return bool(counted) or self.strategy == Strategy.MAJORITY

    @staticmethod
    def of(request: GenerationRequest, strategy: Strategy) -> Question:
        """The question that `request` puts, its answers chosen by `strategy`."""
        said = _ends(_last_said(request))
        instructions = [text[:MAX_SEARCHED_CHARS] for text in _instructions(request)]
        evident = lists_choices(request.response_format) or _is_choice(said) or _is_sum(said)
        asked = [text for text in instructions if _may_ask(text) and _ASKS_FOR_FINAL_ANSWER.search(text)]
        may_call = bool(request.tools) and request.tool_choice != "none"
        return Question(
            strategy=strategy,
            tools=request.tools if may_call else (),
            parallel_tool_calls=request.parallel_tool_calls,
            response_format=request.response_format,
            wants_final_answer=evident or bool(asked),
            wants_value=evident
            or any(_ASKS_FOR_A_VALUE.search(_ends(text)) for text in asked)
            or (bool(asked) and _asks_how_much(said)),
            wants_code=asks_for_code(said),
            by_confidence=strategy == Strategy.CONFIDENT or (strategy == Strategy.AUTO and may_call),
        )


def _may_ask(text: str) -> bool:
    """A look at `text` that costs nothing, before one that does."""
    lowered = text.lower()
    return any(word in lowered for word in ("answer", "boxed", "reply", "respond"))


def _ends(text: str) -> str:
    return text if len(text) <= 2 * ENDS_CHARS else f"{text[:ENDS_CHARS]}\n{text[-ENDS_CHARS:]}"


def _is_choice(said: str) -> bool:
    """`said` lists lettered options, and wants one picked."""
    return _PICK.search(said) is not None and _OPTIONS.search(said) is not None


def _is_sum(said: str) -> bool:
    """`said` is a sum and nothing else: "What is 40 + 2?"."""
    found = _SUM.fullmatch(said) if len(said) <= MAX_PLAIN_CHARS else None
    if found is None or _OPERATION.search(found["sum"]) is None:
        return False
    return bool(found["told"] or found["equals"] or not _NO_PART_OF_A_DATE.isdisjoint(found["sum"]))


def _asks_how_much(said: str) -> bool:
    """`said` is short and asks for a quantity, or does a sum."""
    return len(said) <= MAX_PLAIN_CHARS and (_QUANTITY.search(said) or _OPERATION.search(said)) is not None


def asks_for_code(said: str) -> bool:
    """Whether `said` tells somebody to write a program, in a language that it names."""
    for found in _WRITE_CODE.finditer(said):
        rest = found["rest"]
        verb = found["verb"].lower()
        if _LANGUAGE.search(rest) is None or _NOT_CODE.search(rest) is not None:
            continue
        if verb in ("implement", "code", "port") or _CODE.search(rest) is not None:
            return True
    return False


def _last_said(request: GenerationRequest) -> str:
    """What is asked now: the last user message, or the bare prompt."""
    if isinstance(request.prompt, str):
        return request.prompt
    for message in reversed(request.messages or ()):
        if message.get("role") == "user":
            return "\n".join(_texts(message.get("content")))
    return ""


def lists_choices(form: ResponseFormat | None) -> bool:
    """Whether the client listed the texts that the answer may be: each is a choice, as it stands."""
    return form is not None and form.type == "choice"


def _instructions(request: GenerationRequest) -> Iterator[str]:
    """Where a client says what form it wants: the system messages, the last user message, or the bare prompt."""
    if isinstance(request.prompt, str):
        yield request.prompt
    messages = request.messages or ()
    for message in messages:
        if message.get("role") in ("system", "developer"):
            yield from _texts(message.get("content"))
    for message in reversed(messages):
        if message.get("role") == "user":
            yield from _texts(message.get("content"))
            return


def _texts(content: JsonValue) -> Iterator[str]:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                yield text
