"""Each view rendered together with its inert twin: the structure that its text must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from proxygen.kit.templating import Block, Templates
from proxygen.proxy.render.views import as_context, inert

MAX_SHAPES: Final = 2_000
"""Inert twins that are kept. Numbers are part of a shape: a service whose tags change for ever makes ever new ones."""

Pair = tuple[Block, Block]
"""A text and its inert twin."""


class Twins:
    """Renders views; those of one shape share a twin."""

    def __init__(self, templates: Templates) -> None:
        self.templates: Final = templates
        self._inert: dict[tuple[str, object], Block] = {}

    def pair(self, name: str, view: Any) -> Pair:
        """Render a view whose fields are the template's names. Raise TemplateError where it cannot be filled."""
        return self._pair(name, view, as_context)

    def pair_as(self, key: str, name: str, view: Any, **more: object) -> Pair:
        """Render a view that the template knows as ``key``, beside what is the same for the twin."""
        return self._pair(name, view, lambda filled: {key: filled, **more})

    def _pair(self, name: str, view: Any, context: Callable[[Any], Mapping[str, object]]) -> Pair:
        twin_view = inert(view)
        twin = self._inert.get((name, twin_view))
        if twin is None:
            twin = self.templates.render(name, context(twin_view))
            self._inert[name, twin_view] = twin
        return self.templates.render(name, context(view)), twin

    def sweep(self) -> None:
        """Forget all twins once there are too many."""
        if len(self._inert) > MAX_SHAPES:
            self._inert.clear()
