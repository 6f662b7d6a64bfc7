"""The status page in a terminal: `rows` says what stands where, `app` shows it."""
