"""What nginx says of the operator's files without us counts against nobody."""

from __future__ import annotations

import pytest

from proxygen.proxy.check.messages import Message, new_messages, read_messages


def warn(text: str, file: str = "", line: int = 0) -> Message:
    return Message(level="warn", text=text, file=file, line=line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'nginx: [emerg] unknown directive "x" in /etc/nginx/nginx.conf:3',
            Message(level="emerg", text='unknown directive "x"', file="/etc/nginx/nginx.conf", line=3),
        ),
        (
            "2026/11/30 10:00:00 [warn] 12#12: protocol options redefined for 0.0.0.0:443 in /a b/c.conf:12",
            warn("protocol options redefined for 0.0.0.0:443", "/a b/c.conf", 12),
        ),
        (
            '2026/11/30 10:00:00 [warn] 12#12: conflicting server name "a.test" on 0.0.0.0:80, ignored',
            warn('conflicting server name "a.test" on 0.0.0.0:80, ignored'),
        ),
    ],
)
def test_a_message_is_read_without_its_time_process_and_place(line: str, message: Message) -> None:
    assert read_messages(f"{line}\nnginx: the configuration file /x syntax is ok\n") == (message,)


CONFLICT = warn('conflicting server name "a.test" on 0.0.0.0:80, ignored')


@pytest.mark.incident("T38")
@pytest.mark.parametrize(
    ("said", "baseline", "new"),
    [
        ([CONFLICT], [], [CONFLICT]),
        ([CONFLICT], [CONFLICT], []),
        ([CONFLICT, CONFLICT], [CONFLICT], [CONFLICT]),
        ([], [CONFLICT], []),
        # The later of two lines is named, and it may be ours.
        ([warn("redefined", "http.d/00-http.conf", 5)], [warn("redefined", "/nginx.conf", 9)], []),
        (
            [warn("redefined", "http.d/00-http.conf", 5), warn("redefined", "/nginx.conf", 9)],
            [warn("redefined", "/nginx.conf", 9)],
            [warn("redefined", "http.d/00-http.conf", 5)],
        ),
    ],
)
def test_a_message_is_new_where_it_is_said_more_often_than_without_us(
    said: list[Message], baseline: list[Message], new: list[Message]
) -> None:
    assert new_messages(said, baseline) == tuple(new)


def test_a_message_of_any_length_is_quoted_in_part() -> None:
    assert len(str(warn("x" * 100_000, "/nginx.conf", 1))) < 600
