"""The tool host over HTTP: MCP, and tools as OpenAI's clients know them. No model's route executes a tool."""
