"""What a second Python finds."""
