"""The real parts that tests run against: Consul, nginx, upstreams and load, on loopback only."""
