"""``python -m proxygen``: the same as the ``proxygen`` command."""

from proxygen.cli import main

main()
