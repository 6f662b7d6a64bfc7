"""Ways of carrying packets across hosts, each of them a `proxygen.network.fabric.Backend`."""
