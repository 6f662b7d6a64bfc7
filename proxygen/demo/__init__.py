"""The whole system on one machine: a dev Consul, three instances of an application, nginx and the sidecar."""
