"""GGUF models through llama-cpp-python: a batched generator on its low-level API."""
