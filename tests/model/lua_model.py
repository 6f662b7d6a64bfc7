"""What the model of nginx knows of Lua: one reading's dictionary, and what servers and shares are by it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

UPSTREAMS: Final = "http.d/10-upstreams.conf"

_HEAD: Final = re.compile(r"proxygen 1\nfrom ([0-9]+ [0-9a-fA-F]+)\nto ([0-9]+ [0-9a-fA-F]+)\n")
_BODY: Final = re.compile(r"((?:.*\n)*)end ([0-9]+)\n")
_UPSTREAM: Final = re.compile(r"u \w+ (?:(?:round_robin|least_conn|ip_hash|random) -|hash \w+)((?: [^ ]+)+)", re.ASCII)
_SHARES: Final = re.compile(r"s \w+ ([0-9]{1,7}:\w+(?: [0-9]{1,7}:\w+)*)", re.ASCII)
_PEER: Final = re.compile(
    r"(?:[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|\[[0-9a-fA-F:.]+\]):([0-9]+)/([0-9]+)/([0-9]+)/([0-9]+)/([0-9]+)/[pb]"
)
_BOUNDS: Final = ((1, 65_535), (1, 1_000_000), (0, 1_000_000), (0, 1_000_000), (0, 1_000_000))
_WHOLE: Final = 10_000
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
        head = _HEAD.match(text)
        if head is None:
            return "400", "no document"
        if self.stamp == head[2]:
            return "200", self.stamp
        if self.stamp != head[1]:
            return "409", self.stamp
        body = _BODY.fullmatch(text[head.end() :])
        entries = [] if body is None else body[1].split("\n")[:-1]
        if body is None or len(entries) != int(body[2]) or not all(map(_is_entry, entries)):
            return "400", "no entries"
        split = [entry.split(" ", 2) for entry in entries]
        self.entries = {**self.entries, **{f"{kind} {name}": words for kind, name, words in split}}
        self.stamp = head[2]
        return "200", self.stamp


def _is_entry(line: str) -> bool:
    if upstream := _UPSTREAM.fullmatch(line):
        peers = upstream[1].split(" ")[1:]
        return all(map(_is_peer, peers)) and any(peer.endswith("p") for peer in peers)
    if shares := _SHARES.fullmatch(line):
        return sum(int(word.split(":")[0]) for word in shares[1].split(" ")) == _WHOLE
    return False


def _is_peer(word: str) -> bool:
    found = _PEER.fullmatch(word)
    return found is not None and all(
        len(text) <= 7 and least <= int(text) <= most
        for text, (least, most) in zip(found.groups(), _BOUNDS, strict=True)
    )


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
            yield "share " + entries.get(
                f"s {block.removesuffix('_split')}", line.removeprefix("    default ").strip('";')
            )
        elif words := _WORDS.match(line):
            own.append(words[1])
        elif line.startswith("            }, "):
            method, key, *peers = entries.get(f"u {block}", " ".join(own)).split(" ")
            yield f"by {method} {key}"
            yield from (f"    server {peer}{' backup' if peer.endswith('b') else ''};" for peer in peers)
        elif not line.startswith("    server ") and not (is_default and block in splits):
            yield line
