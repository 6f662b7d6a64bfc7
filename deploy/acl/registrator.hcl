# proxygen registrator: the containers of its host, whatever their services are called.
service_prefix "" { policy = "write" }
