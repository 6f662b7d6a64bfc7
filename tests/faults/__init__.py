"""What happened to others, injected into the real parts. README.md maps each incident to its tests."""
