# proxygen run, render, check, diff and snapshot: they only read.
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
key_prefix "proxygen/canary/" { policy = "read" }
