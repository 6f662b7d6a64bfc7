"""Who is left out, and until when; who is at fault where nothing says it."""
