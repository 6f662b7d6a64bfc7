"""The program that the package is named for: start reading at `loop`."""
