"""The kernel's links, routes, neighbours and forwarding entries: what is there, what should be, and the way between."""
