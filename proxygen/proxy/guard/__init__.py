"""What of a plan waits or stays as it is live: losses, services that flap, instances that are not checked yet."""
