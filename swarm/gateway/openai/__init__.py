"""OpenAI's chat, completions, models and embeddings: bodies in, shapes out. Other APIs build on it."""
