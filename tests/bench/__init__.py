"""What is measured, beside what others use. Run as commands too, which no conftest.py precedes."""

import os

from tests.harness.users import forget_settings

forget_settings(os.environ)
