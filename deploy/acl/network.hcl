# proxygen network, on each host of a container network.
key_prefix "proxygen/network/" { policy = "write" }
session_prefix "" { policy = "write" }
