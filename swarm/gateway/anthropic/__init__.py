"""Anthropic's Messages API: bodies in, shapes out. What is OpenAI's too belongs to `openai/`."""
