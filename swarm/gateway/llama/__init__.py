"""Endpoints of llama.cpp's server that have no OpenAI form. Talking to llama.cpp belongs to engines/."""
