"""A node: its settings, its parts, the composition root and its life. Nothing that answers requests belongs here."""
