"""A story of one sidecar in simulated time: what Consul, the operator and nginx do, and what was told of every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxygen.catalog import Instance
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.record.steps import Step
from tests.model.world import World
from tests.proxy.plan.catalogs import catalog, instance

WEB = instance("web", 1, "route=web.test")
FLEET = tuple(instance(name, 20 + number, f"route={name}.test") for number, name in enumerate(("shop", "mail", "chat")))
BAD = instance("bad", 9, "route=bad.test")
DB = instance("db", 3, "protocol=tcp", "listen=15432")


class Story:
    """A world whose first generation serves the service web, and what was told of every pass since."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps: list[Step] = []
        self.begin()
        self.tell(WEB)

    def begin(self, *, with_consul: bool = True) -> None:
        self.world.start(with_consul=with_consul)
        self.world.reconciler.subscribe(self.steps.append)

    def tell(self, *instances: Instance, seconds: float = 5) -> None:
        self.world.tell(catalog(*instances))
        self.world.wait(seconds)

    def go_back(self, number: int | None = None) -> Step:
        step: Step = self.world.ask(self.world.reconciler.roll_back(number))
        return step

    def release(self) -> Step:
        step: Step = self.world.ask(self.world.reconciler.release_hold())
        return step

    def put_live(self, number: int) -> None:
        """Have nginx serve another generation, as somebody did by hand while there was no sidecar."""
        aside = self.world.directory / "aside"
        aside.symlink_to(f"generations/{number:06d}")
        aside.rename(self.world.output / "current")
        self.world.nginx.kill()
        assert self.world.nginx.start()

    @property
    def last(self) -> Step:
        assert self.world.reconciler.state.last is not None
        return self.world.reconciler.state.last

    @property
    def now(self) -> float:
        return self.world.loop.time()

    def serves(self, name: str) -> bool:
        served = self.world.nginx.served()
        assert served, "nobody serves"
        return all(f" {name}.test;".encode() in b"".join(each.files.values()) for each in served)

    def files(self) -> bytes:
        """Of all that is served: old workers may still be at work."""
        return b"".join(text for each in self.world.nginx.served() for text in each.files.values())

    def listens(self, port: int) -> bool:
        return all(port in each.ports for each in self.world.nginx.served())

    def until(self, condition: Callable[[], object], *, look: float = 0.5) -> float:
        """Return the seconds until the condition holds."""
        started = self.now
        while not condition():
            assert self.now - started < 3_000, self.world.why()
            self.world.wait(look)
        return self.now - started

    def outcomes(self) -> list[Outcome]:
        """Those since the last call, without passes that changed nothing."""
        found = [step.outcome for step in self.steps if step.outcome is not Outcome.UNCHANGED]
        self.steps.clear()
        return found


def a_story(**knobs: str) -> Iterator[Story]:
    world = World(**knobs)
    try:
        assert world.nginx.start()
        yield Story(world)
        assert not world.laws.broken, world.laws.broken
    finally:
        world.close()


def left_out(story: Story) -> set[str]:
    """The services that the newest plan leaves out."""
    plan = story.world.reconciler.state.plan
    assert plan is not None
    return {quarantine.service for quarantine in plan.quarantined}
