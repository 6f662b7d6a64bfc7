# proxygen tags set, for a job that deploys one service: put its name for web.
service "web" { policy = "write" }
