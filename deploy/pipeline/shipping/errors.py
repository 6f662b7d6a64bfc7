"""What ends a stage, and with which exit code."""

from __future__ import annotations


class Failure(Exception):
    """A stage that did not do its work; the text says what still runs."""

    exit_code = 1


class Misuse(Failure):
    """A setting, a file or an order of stages that cannot be used."""

    exit_code = 2
