"""This node's engines and who holds their slots: leases, the queue, loading again. Not: peers and upstreams."""
