# proxygen run where shares are moved from the page or the API.
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
key_prefix "proxygen/canary/" { policy = "write" }
