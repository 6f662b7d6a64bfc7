"""What ``nginx -t`` prints, as messages that can be compared: with what it says of the operator's files alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# With `-e stderr` nginx writes its messages as it writes its log, without it as "nginx: [emerg] …".
_MESSAGE: Final = re.compile(
    r"^(?:nginx:|\d{4}/\d\d/\d\d [\d:]{8}) \[(?P<level>emerg|alert|crit|error|warn)\] (?:\d+#\d+: )?(?P<text>.*)$",
    re.MULTILINE,
)
_PLACE: Final = re.compile(r" in (?P<file>/.+):(?P<line>\d+)$")
_LONGEST: Final = 500
"""Characters of a message that are quoted: one may hold a value of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of nginx."""

    level: str
    text: str
    """Without its time, process and place, so that it can be compared."""
    file: str = ""
    """Absolute; "" where nginx names none."""
    line: int = 0

    @property
    def is_fatal(self) -> bool:
        """Whether nginx refuses the configuration because of it."""
        return self.level == "emerg"

    def __str__(self) -> str:
        text = self.text if len(self.text) <= _LONGEST else f"{self.text[:_LONGEST]}…"
        return f"{text} in {self.file}:{self.line}" if self.file else text


def read_messages(output: str) -> tuple[Message, ...]:
    """Return the messages of a run, warnings and above, in their order."""
    return tuple(_message(match["level"], match["text"].rstrip()) for match in _MESSAGE.finditer(output))


def _message(level: str, text: str) -> Message:
    place = _PLACE.search(text)
    if place is None:
        return Message(level=level, text=text)
    return Message(level=level, text=text[: place.start()], file=place["file"], line=int(place["line"]))


def new_messages(said: Sequence[Message], baseline: Iterable[Message]) -> tuple[Message, ...]:
    """Return what is said beyond a baseline.

    A message that the baseline has at the same place is the baseline's. One that it has elsewhere is so too, as often
    as it has it: nginx tells of a name or an address that stands twice at the later of the two, which may be another
    one by now. Said more often, it is about what came with the candidate.
    """
    known = list(baseline)
    left = Counter((message.level, message.text) for message in known)
    placed = Counter(known)
    others = []
    for message in said:
        if placed[message] > 0:
            placed[message] -= 1
            left[message.level, message.text] -= 1
        else:
            others.append(message)
    found = []
    for message in others:
        if left[message.level, message.text] > 0:
            left[message.level, message.text] -= 1
        else:
            found.append(message)
    return tuple(found)
