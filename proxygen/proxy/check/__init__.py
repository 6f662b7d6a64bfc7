"""The two gates: the structure of a candidate, then `nginx -t`."""
