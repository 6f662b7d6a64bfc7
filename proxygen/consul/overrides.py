"""The standing question for the overrides in KV: shares that an operator set."""

from __future__ import annotations

from collections.abc import Callable

from proxygen.consul.answers import Reply
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import decode_overrides
from proxygen.consul.ledger import Ledger
from proxygen.consul.names import is_askable
from proxygen.consul.poll import Poll, Question
from proxygen.consul.reads import confirm_overrides, overrides_prefix
from proxygen.consul.view import ObservedView
from proxygen.consul.witness import is_affordable


class Overrides:
    """Shows the view what the overrides are; ``observed`` is called whenever they were read."""

    def __init__(
        self, client: ConsulClient, ledger: Ledger, view: ObservedView, *, observed: Callable[[], None]
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._view = view
        self._observed = observed
        self._prefix = overrides_prefix(client.settings.kv_prefix)
        self.are_read = False

    def poll(self) -> Poll:
        return Poll(
            self._client,
            self._ledger,
            Question(
                source="overrides",
                path=f"/v1/kv/{self._prefix}",
                params=(("recurse", ""),),
                witness=self._witness,
            ),
            self._heed,
        )

    def _witness(self) -> str | None:
        if not is_affordable(self._client):
            return None
        name = min(filter(is_askable, self._view.overrides), default=None)
        return None if name is None else f"{self._prefix}{name}"

    async def _heed(self, reply: Reply) -> None:
        overrides = {} if reply.status == 404 else decode_overrides(reply.body, self._prefix)
        lost = [name for name in self._view.overrides if name not in overrides]
        if lost:
            overrides = await confirm_overrides(self._client, lost)
        self.are_read = True
        self._view.observe_overrides(overrides)
        self._observed()
