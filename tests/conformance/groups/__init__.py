"""The groups of cases, one file per subject."""
