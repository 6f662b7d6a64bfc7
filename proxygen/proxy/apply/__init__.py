"""From a candidate to what nginx runs: publish, reload, prove."""
