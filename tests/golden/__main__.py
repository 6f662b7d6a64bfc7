"""Write the expected files."""

from tests.golden import HERE, rendered

for path, content in rendered().contents.items():
    (HERE / path).parent.mkdir(exist_ok=True)
    (HERE / path).write_bytes(content)
