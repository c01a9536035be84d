"""The clouds that can be named: where each is, which protocol it speaks, whose key it wants. A table, and pure."""
