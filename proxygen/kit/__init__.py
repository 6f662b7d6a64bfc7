"""What all of the package shares and knows no word of its domain."""
