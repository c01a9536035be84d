"""An MCP server made with the official package, over standard input and output or HTTP (`http PORT`)."""

from __future__ import annotations

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("official")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def broken() -> str:
    """Fail."""
    raise ValueError("it broke")


@server.tool()
def region(name: str) -> dict[str, str]:
    """What is where."""
    return {"region": name}


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        server.run()
