"""Tool calls that models and servers got wrong, from public reports: what came, and what it can only mean.

Payloads are the reports' own, cut to what is wrong with them and fitted to the tools below. `meant` is None where
nobody can know: the value was cut off, two readings are possible, or it is not a call of these tools. Those must be
left as they are; so are those that are `left`, though what they mean is plain: no rule is made for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarm.generation import FinishReason, FunctionSpec, ToolSpec


def _tool(name: str, required: list[str], **properties: Any) -> ToolSpec:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    return ToolSpec(function=FunctionSpec(name=name, parameters=schema))


_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_TODO = {"type": "object", "properties": {"content": _TEXT, "status": _TEXT}, "required": ["content"]}
_EDIT = {"type": "object", "properties": {"oldText": _TEXT, "newText": _TEXT}, "required": ["oldText", "newText"]}
TOOLS = (
    _tool("bash", ["command", "description"], command=_TEXT, description=_TEXT, timeout=_NUMBER),
    _tool("read", ["filePath"], filePath=_TEXT),
    _tool("read_many", ["paths"], paths={"type": "array", "items": _TEXT}),
    _tool("write", ["path", "content"], path=_TEXT, content=_TEXT),
    _tool("edit", ["path", "edits"], path=_TEXT, edits={"type": "array", "items": _EDIT}),
    _tool("view", ["path"], command=_TEXT, path=_TEXT, view_range={"type": "array", "items": _NUMBER}),
    _tool("search", ["query"], query=_TEXT, limit=_NUMBER),
    _tool("get_weather", ["city"], city=_TEXT, unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
    _tool("set_flag", ["enabled"], enabled=_FLAG, label={"type": ["string", "null"]}),
    _tool("todowrite", ["todos"], todos={"type": "array", "items": _TODO}),
    _tool("link", ["entity", "target"], entity=_TEXT, target=_TEXT),
    _tool("Glob", ["pattern"], pattern=_TEXT),
    _tool("take_screenshot", []),
    _tool("health", []),
)


@dataclass(frozen=True, slots=True)
class BrokenCall:
    """One reported call. `meant` is the tool and its arguments."""

    source: str
    name: str
    arguments: str
    meant: tuple[str, dict[str, Any]] | None
    reason: FinishReason = "tool_calls"
    left: bool = False


def _to(name: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return name, arguments


_PARIS = _to("get_weather", city="paris")
_A_TXT = _to("read", filePath="a.txt")
_SHELL = _to("bash", command="git status", description="")

REPORTS = (
    # A fence around the arguments
    BrokenCall("earendil-works/pi#8858", "get_weather", '```json\n{"city":"paris"}\n```', _PARIS),
    BrokenCall("NousResearch/hermes-agent#79333", "read", '```json\n{"filePath": "a.txt"}\n```', _A_TXT),
    BrokenCall("langchain-ai/langchain#33012", "read", '```\n{"filePath": "a.txt"}\n```\n', _A_TXT),
    BrokenCall("agentscope-ai/QwenPaw#6364", "read", '```json{"filePath": "a.txt"}```', _A_TXT),
    BrokenCall("just-every/code#355", "read", ' ```JSON\r\n{\r\n  "filePath": "a.txt"\r\n}\r\n```', _A_TXT),
    BrokenCall("agents-flex/agents-flex#64", "read", 'Action Input: ```json\n{"filePath": "a.txt"}\n```', None),
    BrokenCall("agentscope-ai/QwenPaw#6364", "read", '{"filePath": "a.txt"}\n```', _A_TXT, left=True),
    BrokenCall("langchain-ai/langchain#33012", "read", '```json\n{"filePath": "a.t', None),
    # Commas before a closing bracket
    BrokenCall(
        "ducroo/SICTIC-AI#37", "search", '{"query": "startups", "limit": 5,}', _to("search", query="startups", limit=5)
    ),
    BrokenCall("huggingface/chat-ui#1229", "get_weather", '{"city": "paris",\n}', _PARIS),
    BrokenCall("ducroo/SICTIC-AI#37", "read_many", '{"paths": ["a", ", ]", ], }', _to("read_many", paths=["a", ", ]"])),
    BrokenCall(
        "cline/cline#13015",
        "todowrite",
        '{"todos": [{"content": "x", },],}',
        _to("todowrite", todos=[{"content": "x"}]),
    ),
    BrokenCall("NousResearch/hermes-agent#68612", "read_many", '{"paths": [", ]", "a"', None),
    # Python's quotes and words
    BrokenCall(
        "cubist38/mlx-openai-server#124",
        "read",
        "{'filePath': '/Users/me/projects/cool/src/store/search.constant.js'}",
        _to("read", filePath="/Users/me/projects/cool/src/store/search.constant.js"),
    ),
    BrokenCall(
        "QwenLM/qwen-code#288",
        "read_many",
        '{"paths": [\'app.py\', "b.py"]}',
        _to("read_many", paths=["app.py", "b.py"]),
    ),
    BrokenCall(
        "camel-ai/camel#541", "search", "{'query': 'basketball coach'}", _to("search", query="basketball coach")
    ),
    BrokenCall(
        "NousResearch/atropos#478",
        "search",
        "{'query': \"what's the weather\"}",
        _to("search", query="what's the weather"),
    ),
    BrokenCall(
        "NousResearch/atropos#479",
        "search",
        r"{'query': 'what\'s the weather'}",
        _to("search", query="what's the weather"),
    ),
    BrokenCall(
        "waybarrios/vllm-mlx#64",
        "set_flag",
        '{"enabled": True, "label": None}',
        _to("set_flag", enabled=True, label=None),
    ),
    BrokenCall(
        "modelscope/ms-swift#9968",
        "set_flag",
        "{'enabled': False, 'label': 'a \"b\"'}",
        _to("set_flag", enabled=False, label='a "b"'),
    ),
    BrokenCall(
        "ml-explore/mlx-lm#1785",
        "write",
        "{'path': '/tmp/hello.py', 'content': '# Hello, world\\nprint(1)'}",
        _to("write", path="/tmp/hello.py", content="# Hello, world\nprint(1)"),
    ),
    BrokenCall("camel-ai/camel#541", "search", "{'query': 'what's the weather'}", None),
    BrokenCall("waybarrios/vllm-mlx#64", "read_many", "{'paths': {'a', 'b'}}", None),
    BrokenCall("openai/openai-python#2958", "search", "{\"query\": \\'foo\\'}", None),
    # Line ends and tabs as they are
    BrokenCall(
        "earendil-works/pi#2981",
        "edit",
        '{"path": "a", "edits": [{"oldText": "line one\nline two\nline three", "newText": "replaced"}]}',
        _to("edit", path="a", edits=[{"oldText": "line one\nline two\nline three", "newText": "replaced"}]),
    ),
    BrokenCall(
        "earendil-works/pi#2981",
        "edit",
        '{"path": "/some/file.ts", "edits": [{"oldText": "\t\t// Discover tmux\n\t\ttry {", "newText": "x"}]}',
        _to("edit", path="/some/file.ts", edits=[{"oldText": "\t\t// Discover tmux\n\t\ttry {", "newText": "x"}]),
    ),
    BrokenCall(
        "openclaw/openclaw#141323",
        "write",
        '{"path": "a", "content": "one\r\ntwo"}',
        _to("write", path="a", content="one\r\ntwo"),
    ),
    BrokenCall("prism-php/prism#937", "search", '{"query": "a\x0bb"}', _to("search", query="a\x0bb")),
    BrokenCall(
        "minpeter/ai-sdk-tool-call-middleware#300",
        "write",
        '{"path": "a",\n "content": "x\\\\n\ny"}',
        _to("write", path="a", content="x\\n\ny"),
    ),
    BrokenCall("openclaw/openclaw#141323", "bash", r'{"command": "grep \d+ a", "description": ""}', None),
    BrokenCall(
        "OpenHands/software-agent-sdk#2488",
        "view",
        '{"path": "q.py", "view_range": \\n[2142, 2250]\\n\\n}',
        _to("view", path="q.py", view_range=[2142, 2250]),
        left=True,
    ),
    # Encoded twice
    BrokenCall(
        "quarkiverse/quarkus-langchain4j#2642",
        "search",
        r'"{ \"query\": \"x\", \"limit\": 2 }"',
        _to("search", query="x", limit=2),
    ),
    BrokenCall(
        "tridz-dev/huf#676", "get_weather", r'"{\"city\": \"Bengaluru\"}"', _to("get_weather", city="Bengaluru")
    ),
    BrokenCall("MoonshotAI/kimi-cli#2513", "read", r'"{\"filePath\": \"a.txt\"}"', _A_TXT),
    BrokenCall("digitalocean/langchain-gradient#31", "search", r'{"query": \"foo\"}', None),
    BrokenCall("aws-samples/bedrock-engineer#188", "search", '"just text"', None),
    # No arguments
    BrokenCall("simonw/llm#1164", "health", "", _to("health")),
    BrokenCall("sigoden/aichat#1217", "take_screenshot", "", _to("take_screenshot")),
    BrokenCall("JohnnyZ93/oai-compatible-copilot#151", "take_screenshot", "  ", _to("take_screenshot")),
    BrokenCall("vllm-project/vllm#19419", "search", "", None),
    BrokenCall("open-webui/computer#252", "read", "", None),
    # A remark that is required and left out
    BrokenCall("anomalyco/opencode#24003", "bash", '{"command": "git status"}', _SHELL),
    BrokenCall(
        "anomalyco/opencode#13288",
        "bash",
        '{"command": "ls -la", "timeout": 5}',
        _to("bash", command="ls -la", timeout=5, description=""),
    ),
    BrokenCall(
        "anomalyco/opencode#17415", "bash", "{'command': 'echo test'}", _to("bash", command="echo test", description="")
    ),
    BrokenCall("anomalyco/opencode#10213", "bash", "{}", None),
    # Names
    BrokenCall("tontinton/maki#780", "functions.bash", '{"command": "git status", "description": ""}', _SHELL),
    BrokenCall("vllm-project/vllm#27565", "functions.get_weather:0", '{"city": "paris"}', _PARIS),
    BrokenCall("vllm-project/vllm#27565", "get_weather:0", '{"city": "paris"}', _PARIS),
    BrokenCall("itayinbarr/little-coder#92", "Bash", '{"command": "git status"}', _SHELL),
    BrokenCall("lijunzh/koda#49", "glob", '{"pattern": "**/README.md"}', _to("Glob", pattern="**/README.md")),
    BrokenCall("googleapis/python-aiplatform#4472", "default_api.read", '{"filePath": "a.txt"}', _A_TXT),
    BrokenCall("onnxruntime/mobius#520", "read.filePath", '{"filePath": "a.txt"}', None),
    BrokenCall("sgl-project/sglang#21377", "functionsexec5", '{"command": "git status"}', None),
    # Cut off, or closed once too often
    BrokenCall("cline/cline#13001", "write", '{"path": "a", "content": "half of', None, "length"),
    BrokenCall("cline/cline#13015", "bash", "{'command': 'rm -rf /tmp/a", None),
    BrokenCall("sgl-project/sglang#32721", "todowrite", '{"todos": [{"content": "x"}]', None),
    BrokenCall("yigit353/langchain-qwq#30", "get_weather", '{"city": "paris"}}', None),
    BrokenCall("agentscope-ai/QwenPaw#6364", "get_weather", '{"city": "paris"}</tool_call>', _PARIS, left=True),
    BrokenCall(
        "NousResearch/hermes-agent#26053", "link", '{"entity": "X", "target": "Y"}{"entity": "X", "target": "Z"}', None
    ),
    # Values in another type than the schema's, and what is no JSON at all
    BrokenCall(
        "anthropics/claude-code#36548",
        "todowrite",
        r'{"todos": "[{\"content\": \"x\"}]"}',
        _to("todowrite", todos=[{"content": "x"}]),
    ),
    BrokenCall("anthropics/claude-code#87251", "read", r'{"filePath": E:\Chat\Angels sword\report.md}', None),
    BrokenCall("mistralai/mistral-vibe#216", "read", r'{"filePath": "C:\Users\me"}', None),
    BrokenCall("BaseIntelligence/bounty-challenge#49580", "read", "filePath=foo", None),
    BrokenCall(
        "tailcallhq/forgecode#894", "search", '{"limit: \nLet me use a broader search\n\n<function_calls>\n', None
    ),
)

WHOLE = (
    # What is valid and looks broken: somebody's repair damaged each of these.
    BrokenCall(
        "intrafind/ihub-apps#1802", "write", '{"path": "a", "content": "x}{y"}', _to("write", path="a", content="x}{y")
    ),
    BrokenCall("agno-agi/agno#10459", "search", '{"query": "true"}', _to("search", query="true")),
    BrokenCall(
        "epam/dm.ai#461",
        "search",
        '{"query": "[some-label]: {\\"foo\\":\\"bar\\"}"}',
        _to("search", query='[some-label]: {"foo":"bar"}'),
    ),
    BrokenCall(
        "NousResearch/atropos#478",
        "search",
        '{"query": "what\'s the weather"}',
        _to("search", query="what's the weather"),
    ),
    BrokenCall("ollama/ollama#12017", "search", '{"query": "}A"}', _to("search", query="}A")),
    BrokenCall(
        "openclaw/openclaw#110823",
        "write",
        '{"path": "a", "content": "def add():\\\\n\\\\treturn 1"}',
        _to("write", path="a", content="def add():\\n\\treturn 1"),
    ),
)
