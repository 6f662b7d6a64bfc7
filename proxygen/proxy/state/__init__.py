"""What decides after a restart."""
