# proxygen canary, for the team of one service: put its name for web.
service "web" { policy = "read" }
node_prefix "" { policy = "read" }
key "proxygen/canary/web" { policy = "write" }
