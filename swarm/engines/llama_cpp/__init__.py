"""Everything that knows llama.cpp: its HTTP, grammars, refusals, prefill, and one file for each way to run it."""
