"""A program that cannot be started: the reason is what its owner can mend, and the exit code is a shell's."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxygen.kit.errors import CannotStart
from proxygen.registration.child import Children


def refusal(program: Path, content: bytes) -> tuple[str, int]:
    program.write_bytes(content)
    program.chmod(0o755)
    with Children() as children, pytest.raises(CannotStart) as caught:
        children.start([str(program)])
    return str(caught.value), caught.value.exit_code


async def test_a_script_without_its_first_line_is_told_what_it_lacks(tmp_path: Path) -> None:
    """What starts programs by execvp, as other inits do, gives it to a shell without a word."""
    said, code = refusal(tmp_path / "start.sh", b"echo hello\n")
    assert (said, code) == (
        f"{tmp_path}/start.sh cannot be started: Exec format error; it begins with no line such as #!/bin/sh, or is "
        "for another kind of machine",
        126,
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"#!/bin/bash42\necho\n", "'/bin/bash42'"),
        (b"#! /usr/bin/nothing -u\necho\n", "'/usr/bin/nothing'"),
        # By an editor that ends lines as Windows does.
        (b"#!/bin/sh\r\necho\r\n", "'/bin/sh\\r'"),
    ],
)
async def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    said, code = refusal(tmp_path / "start.sh", content)
    assert (said, code) == (
        f"{tmp_path}/start.sh cannot be started: it is there, and its interpreter {named} is not",
        127,
    )


async def test_a_program_that_is_not_there_is_just_that(tmp_path: Path) -> None:
    with (
        Children() as children,
        pytest.raises(CannotStart, match="nothing cannot be started: No such file or directory"),
    ):
        children.start([str(tmp_path / "nothing")])
