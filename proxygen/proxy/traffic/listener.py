"""The socket that nginx sends its lines to, and the thread that reads it.

A datagram socket's queue holds few lines (net.unix.max_dgram_qlen) and nginx does not wait for room, so the thread
comes often: after each pause it takes all that has gathered. A pause per batch instead of a wake-up per line makes a
line cost a quarter. What arrived twice in a batch is looked at once.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from proxygen.kit.errors import SettingsError
from proxygen.kit.log import get_logger
from proxygen.proxy.traffic.lost import LostLines
from proxygen.proxy.traffic.place import Place
from proxygen.proxy.traffic.tally import Tally

_log = get_logger(__name__)

_LONGEST_LINE: Final = 2048
"""Bytes: for a request that went to one server after the other, at their longest addresses."""
_BATCH: Final = 1024
"""Lines after which what was read is counted, however many more there are."""

_LONGEST_PAUSE: Final = 0.005
_LINES_PER_SECOND: Final = 50_000
"""For which the queue should have room during a pause."""

_QUEUE_FILE: Final = Path("/proc/sys/net/unix/max_dgram_qlen")
_USUAL_QUEUE: Final = 10
"""The kernel's own default; systemd sets 512 on a host, and containers do not get that."""

_SMALL_QUEUE: Final = 256

_MOST_THINNED: Final = 1024


class Listener:
    """Reads lines into a tally while it is open."""

    def __init__(
        self, receiver: socket.socket, tally: Tally, *, mark: Path, budget: float, lost: LostLines | None
    ) -> None:
        """``mark`` is what nginx looks at, ``budget`` the part of one CPU that may be used."""
        self.queue: Final = _queue_length()
        self.full = 0
        """Reads that found the queue full: nginx may have had to drop lines before."""
        self.each = 1
        """One of so many lines is looked at."""
        self._until_next = 0
        """Lines to pass over until then."""
        self._receiver: Final = receiver
        self._tally: Final = tally
        self._mark: Final = mark
        self._lost: Final = lost
        self._pace: Final = ReadingPace(budget, shortest=min(_LONGEST_PAUSE, self.queue / _LINES_PER_SECOND))
        self._wake: Final = os.eventfd(0)
        self._thread: Final = threading.Thread(target=self._run, name="traffic", daemon=True)

    @property
    def lost(self) -> int | None:
        """Lines that nginx could not send; None where its error log does not say."""
        return None if self._lost is None else self._lost.count

    @property
    def problem(self) -> str:
        """What keeps it from hearing everything; "" where nothing does."""
        if not self._thread.is_alive():
            return "the thread that reads traffic has ended; the log says why"
        if self.full and self.queue < _SMALL_QUEUE:
            return (
                f"nginx drops lines about its traffic: net.unix.max_dgram_qlen is {self.queue} here; "
                f"set it to 512 before the sidecar starts, or lower traffic.sample"
            )
        return ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wake the thread, and wait for its end."""
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            self._read()
        except Exception:
            # nginx must not go on to send what no thread reads.
            _remove(self._mark)
            _log.exception("traffic is no longer read")

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._receiver, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = poll.poll(1000)
            if any(descriptor == self._wake for descriptor, _ in ready):
                return
            if ready:
                time.sleep(self._pace.pause)
                self._drain()
            if self._pace.is_due():
                self._pace.reckon()
                self.each = self._pace.each
                if self._lost is not None:
                    self._lost.read()

    def _drain(self) -> None:
        """Take what is there, and no more than that: what arrives meanwhile is for the next time."""
        lines: list[bytes] = []
        receive, append = self._receiver.recv, lines.append
        with suppress(BlockingIOError):
            for _ in range(_BATCH):
                append(receive(_LONGEST_LINE))
        if len(lines) > self.queue:
            self.full += 1
        # Counted over all batches: the first line of each would stand for more than there were in a short one.
        kept = lines[self._until_next :: self.each]
        self._until_next = (self._until_next - len(lines)) % self.each
        self._tally.add(Counter(kept).items(), each=self.each, thinned=len(lines) - len(kept))


class ReadingPace:
    """How often to come, and how many lines to leave out, for the thread's time to be within the budget."""

    def __init__(self, budget: float, *, shortest: float) -> None:
        """``shortest`` is the pause that a queue of this length asks for, in seconds."""
        self._budget: Final = budget
        self._shortest: Final = shortest
        self._mark = (time.monotonic(), time.thread_time())
        self.pause = shortest
        self.each = 1
        """One of so many lines is looked at."""

    def is_due(self) -> bool:
        """Whether a second has passed since the last reckoning."""
        return time.monotonic() - self._mark[0] >= 1.0

    def reckon(self) -> None:
        """Adapt to the processor time that reading took since the last reckoning."""
        before, self._mark = self._mark, (time.monotonic(), time.thread_time())
        self.adapt((self._mark[1] - before[1]) / (self._mark[0] - before[0]))

    def adapt(self, used: float) -> None:
        """Do less where more than the budget was used, and more where far less was.

        To come less often is first: where the queue is short, most of the time goes into coming. What it overflows by
        then is lost and told as lost.
        """
        if used > self._budget:
            if self.pause < _LONGEST_PAUSE:
                self.pause = min(self.pause * max(2.0, used / self._budget), _LONGEST_PAUSE)
            else:
                self.each = min(self.each * 2, _MOST_THINNED)
        elif used < self._budget / 3:
            if self.each > 1:
                self.each //= 2
            else:
                self.pause = max(self.pause / 2, self._shortest)


@contextmanager
def listening(place: Place, tally: Tally, *, budget: float, lost: LostLines | None) -> Iterator[Listener]:
    """Listen while the block runs. Raise SettingsError where the socket cannot be made."""
    receiver = _bind(place.socket)
    try:
        listener = Listener(receiver, tally, mark=place.mark, budget=budget, lost=lost)
        listener.start()
        try:
            _mark(place)
            yield listener
        finally:
            _remove(place.mark)
            listener.stop()
    finally:
        receiver.close()
        _remove(place.socket)


def _bind(path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        receiver.setblocking(False)
        if path.is_socket():
            _refuse_a_living_owner(path)
            path.unlink()
        receiver.bind(str(path))
        # nginx's workers are another user; who may write to it can only make figures wrong.
        path.chmod(0o666)
    except OSError as error:
        receiver.close()
        raise SettingsError(
            f"traffic socket {path}: {error.strerror}; set traffic.socket to a writable place, or traffic.sample to 0"
        ) from error
    except SettingsError:
        receiver.close()
        raise
    return receiver


def _refuse_a_living_owner(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(str(path))
        raise SettingsError(f"traffic socket {path}: another sidecar reads it; give each its own traffic.socket")


def _mark(place: Place) -> None:
    _remove(place.mark)
    try:
        if place.through_proc:
            place.mark.symlink_to(f"/proc/{os.getpid()}")
        else:
            place.mark.touch(0o644)
    except OSError as error:
        raise SettingsError(f"{place.mark}: {error.strerror}; set traffic.socket to a writable place") from error


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _queue_length() -> int:
    """How many lines the kernel keeps for a socket that is made now."""
    try:
        return int(_QUEUE_FILE.read_text())
    except (OSError, ValueError):
        return _USUAL_QUEUE
