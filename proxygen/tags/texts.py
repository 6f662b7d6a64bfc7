"""Proxy tags as Consul holds them: texts in Tags and Meta, read and written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from proxygen.kit.errors import TagError, quoted
from proxygen.kit.texts import name_some
from proxygen.tags.key import Key
from proxygen.tags.keys import BY_NAME, KEYS
from proxygen.tags.proxy import TWO_VARIANTS, ProxyTags, check_combination, format_values, in_order

PREFIX: Final = "proxygen"

# nginx refuses a token of more than 4,096 bytes; no value may come near it, whatever a template puts around it.
_LONGEST_VALUE: Final = 2_048

MOST_NAMED: Final = 10
"""Unknown keys, and values of a key that may have one, that are named; of more, their number is."""


@dataclass(frozen=True, slots=True)
class _Text:
    """One value as it was written, and where."""

    place: str
    key: Key
    value: str


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A key that the grammar does not have: the tag or Meta key that says it, and what it would be called."""

    place: str
    name: str


def parse_tags(tags: Iterable[str], meta: Iterable[tuple[str, str]] = (), prefix: str = PREFIX) -> ProxyTags:
    """Return what an instance's tags and Meta say; a tag wins over the Meta of the same key.

    Raise the first of the TagErrors that `lint_tags` finds.
    """
    proxy_tags, problems = _read(tags, meta, prefix)
    if problems:
        raise problems[0]
    return proxy_tags


def lint_tags(tags: Iterable[str], meta: Iterable[tuple[str, str]] = (), prefix: str = PREFIX) -> list[TagError]:
    """Return everything that is wrong with an instance's tags and Meta.

    Combinations are judged once every single tag is right.
    """
    return _read(tags, meta, prefix)[1]


def format_tags(tags: ProxyTags, prefix: str = PREFIX) -> tuple[str, ...]:
    """Return the tags that `parse_tags` reads back, in the order of `KEYS`."""
    return tuple(f"{prefix}.{key.name}={text}" for key, text in format_values(tags))


def format_meta(tags: ProxyTags, prefix: str = PREFIX) -> tuple[tuple[str, str], ...]:
    """Return the Meta that `parse_tags` reads back. Consul holds at most 512 bytes in one value."""
    texts: dict[str, list[str]] = defaultdict(list)
    for key, text in format_values(tags):
        texts[f"{prefix}-{key.name}"].append(text)
    return tuple((name, " ".join(values)) for name, values in texts.items())


def has_proxy_tags(tags: Iterable[str], prefix: str = PREFIX) -> bool:
    """Tell whether any tag is meant for the proxy, right or wrong."""
    return any(tag.startswith(f"{prefix}.") for tag in tags)


def _read(tags: Iterable[str], meta: Iterable[tuple[str, str]], prefix: str) -> tuple[ProxyTags, list[TagError]]:
    """Return what could be read, and everything that is wrong."""
    problems: list[TagError] = []
    unknown: list[_Unknown] = []
    stated = list(_from_tags(tags, prefix, problems, unknown))
    in_tags = {text.key.name for text in stated}
    stated += (text for text in _from_meta(meta, prefix, unknown) if text.key.name not in in_tags)
    problems[:0] = _unknown_keys(unknown)
    by_key: dict[str, list[_Text]] = defaultdict(list)
    for text in stated:
        by_key[text.key.name].append(text)
    values: dict[str, Any] = {}
    for texts in by_key.values():
        key = texts[0].key
        if key.field in values:
            problems.append(TagError(texts[0].place, TWO_VARIANTS))
        values[key.field] = _value(key, texts, problems)
    proxy_tags = ProxyTags(**values)
    if not problems:
        places = {name: texts[0].place for name, texts in by_key.items()}
        problems += (TagError(places[problem.place], problem.reason) for problem in check_combination(proxy_tags))
    return proxy_tags, problems


def _from_tags(tags: Iterable[str], prefix: str, problems: list[TagError], unknown: list[_Unknown]) -> Iterator[_Text]:
    for tag in tags:
        if not tag.startswith(f"{prefix}."):
            continue
        name, equals, value = tag.removeprefix(f"{prefix}.").partition("=")
        key = BY_NAME.get(name)
        if key is None:
            unknown.append(_Unknown(tag, name))
        elif not equals:
            problems.append(TagError(f"{prefix}.{name}", f"there is no value; write {prefix}.{name}={key.example}"))
        else:
            yield _Text(f"{prefix}.{name}", key, value)


def _from_meta(meta: Iterable[tuple[str, str]], prefix: str, unknown: list[_Unknown]) -> Iterator[_Text]:
    for name, value in meta:
        if not name.startswith(f"{prefix}-"):
            continue
        key = BY_NAME.get(name.removeprefix(f"{prefix}-"))
        if key is None:
            unknown.append(_Unknown(name, name.removeprefix(f"{prefix}-")))
        elif key.repeatable:
            yield from (_Text(name, key, item) for item in value.split(" ") if item)
        else:
            yield _Text(name, key, value)


def _unknown_keys(unknown: list[_Unknown]) -> Iterator[TagError]:
    """Yield one problem for each of the first; looking for what was meant takes long."""
    for each in unknown[:MOST_NAMED]:
        yield TagError(quoted(each.place), _unknown(each.name))
    if len(unknown) > MOST_NAMED:
        rest = unknown[MOST_NAMED:]
        yield TagError(f"{len(rest)} more", f"they are not keys either; the first is {quoted(rest[0].place)}")


def _unknown(name: str) -> str:
    close = get_close_matches(name[:64], BY_NAME, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{quoted(name)} is not a key{hint}; the keys are {', '.join(key.name for key in KEYS)}"


def _value(key: Key, texts: list[_Text], problems: list[TagError]) -> Any:
    """Return a key's value in normal form; what cannot be read goes to ``problems``."""
    values: dict[Any, str] = {}
    for text in texts:
        reason = _unprintable(text.value)
        if reason is None:
            try:
                values.setdefault(key.parse(text.value), text.value)
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            problems.append(TagError(text.place, reason))
    if key.repeatable:
        return in_order(values)
    if len(values) > 1:
        stated = name_some([quoted(value) for value in values.values()], MOST_NAMED, between=" and ")
        problems.append(TagError(texts[0].place, f"one value is allowed, and there are {stated}"))
    return next(iter(values), None)


def _unprintable(value: str) -> str | None:
    """Say why a text cannot be any key's value, or None: what would be cut, split or hidden on its way."""
    if len(value) > _LONGEST_VALUE:
        return f"{quoted(value)} is longer than the {_LONGEST_VALUE} characters that a value may have"
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        return f"{quoted(value)} holds a control character, such as a newline or a tab"
    if value != value.strip():
        return f"{quoted(value)} has white space before or behind it"
    return None
