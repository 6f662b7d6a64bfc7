"""Plan -> files of nginx."""
