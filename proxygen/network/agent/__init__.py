"""The agent of one host: it keeps the host's lease, and its data plane as Consul's keys want it.

Start at `host`. `known`, `status` and `place` are what it leaves on disk; `leaving` is how a host goes for good.
"""
