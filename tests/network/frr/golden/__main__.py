"""Write the golden files anew."""

from tests.network.frr import golden

for name, text in golden.rendered().items():
    (golden.HERE / name).write_text(text, encoding="utf-8")
