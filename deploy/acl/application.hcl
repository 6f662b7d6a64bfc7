# proxygen register, or an application that registers itself: put its service's name for web.
service "web" { policy = "write" }
