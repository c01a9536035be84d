"""mlx-lm: folders of safetensors, on Apple Silicon; on Linux its CPU build, for tests."""
