"""Servers that speak each cloud's protocol as its public reference and its own SDK's types have it, and nothing else.

They check what they are sent as strictly as the cloud does: pairs of calls and results, ids, signatures that they made.
"""
