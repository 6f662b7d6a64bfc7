"""What the model of nginx knows of Lua: one reading's dictionary, and what servers and shares are by it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

UPSTREAMS: Final = "http.d/10-upstreams.conf"

_DOCUMENT: Final = re.compile(r"proxygen 1\nfrom ([0-9a-f ]+)\nto ([0-9a-f ]+)\n((?:.*\n)*)end ([0-9]+)\n")
_PEER: Final = r"(?:[0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]+/[1-9][0-9]*(?:/[0-9]+){3}/[pb]"
_ENTRY: Final = re.compile(
    rf"(?:u \w+ (?:round_robin|least_conn|ip_hash|random) -|u \w+ hash \w+)(?: {_PEER})*? ?{_PEER}"
    r"|s \w+ [0-9]+:\w+(?: [0-9]+:\w+)*"
)
_SPLIT: Final = re.compile(r'map "" \$(\w+)_split {$')
_WORDS: Final = re.compile(r'^ {16}"(.*)",$')


class Dictionary:
    """What was pushed to the workers of one reading of the configuration."""

    def __init__(self, base: str) -> None:
        self.stamp = base
        """Of what they serve."""
        self.entries: Mapping[str, str] = {}

    def take(self, text: str) -> tuple[str, str]:
        """Take a document whole, and return a status and what is said; the rules are those of push.lua."""
        match = _DOCUMENT.fullmatch(text)
        entries = [] if match is None else match[3].splitlines()
        if match is None or len(entries) != int(match[4]) or not all(map(_is_entry, entries)):
            return "400", "no document"
        if self.stamp == match[2]:
            return "200", self.stamp
        if self.stamp != match[1]:
            return "409", self.stamp
        split = [entry.split(" ", 2) for entry in entries]
        self.entries = {**self.entries, **{f"{kind} {name}": words for kind, name, words in split}}
        self.stamp = match[2]
        return "200", self.stamp


def _is_entry(line: str) -> bool:
    if _ENTRY.fullmatch(line) is None:
        return False
    if line.startswith("s "):
        return sum(int(word.split(":")[0]) for word in line.split(" ")[2:]) == 10_000
    return any(word.endswith("/p") for word in line.split(" "))


def in_force(files: Mapping[str, bytes], entries: Mapping[str, str]) -> Mapping[str, bytes]:
    """Return files with servers and shares as they are by what was pushed, in one way of writing each; the same files
    where nothing of them can be pushed."""
    text = files.get(UPSTREAMS, b"").decode()
    if "balancer_by_lua_block" not in text and "_split {" not in text:
        return files
    return {**files, UPSTREAMS: "\n".join(_lines(text.splitlines(), entries)).encode()}


def _lines(lines: list[str], entries: Mapping[str, str]) -> Iterator[str]:
    """Leave out what nginx does not look at where there is Lua, and say once what it looks at."""
    splits = {found[1] for line in lines if (found := _SPLIT.match(line))}
    block, own = "", []
    for line in lines:
        if line.endswith("{") and not line.startswith(" "):
            block, own = line.split(" ")[-2].removeprefix("$"), []
        is_default = line.startswith("    default ")
        if is_default and block.removesuffix("_split") in splits and block.endswith("_split"):
            yield "share " + entries.get(f"s {block.removesuffix('_split')}", line.split('"')[1])
        elif words := _WORDS.match(line):
            own.append(words[1])
        elif line.startswith("            }, "):
            method, key, *peers = entries.get(f"u {block}", " ".join(own)).split(" ")
            yield f"by {method} {key}"
            yield from (f"    server {peer}{' backup' if peer.endswith('b') else ''};" for peer in peers)
        elif not line.startswith("    server ") and not (is_default and block in splits):
            yield line
