"""OpenAI's Responses API, without state: items in, items and events out."""
