"""What happened, and what came of it."""
