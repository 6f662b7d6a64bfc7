"""What the operator allows, by settings, nginx.conf, files and this host."""
