"""Write the page."""

from tests.conformance.page import PAGE, text

PAGE.write_text(text(), encoding="utf-8")
