# proxygen canary, for whoever may move every canary.
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
key_prefix "proxygen/canary/" { policy = "write" }
