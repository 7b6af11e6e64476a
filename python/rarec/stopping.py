"""How a process is stopped: a signal becomes an exception, which may wait for a saved state."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

#: Ctrl-C, the usual request to end, and the end of the terminal, which Windows does not have.
SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# a training may go on for so long after a signal, if its newest state is saved then
_MOST_SECONDS = 1.0
# a second signal that comes sooner is the first one again: Ctrl-C and `timeout` signal a whole
# group of processes, and a parent then signals its children once more
_SAME_SECONDS = 0.5
# how often is looked whether somebody has caught the exception and gone on
_LOOK_SECONDS = 0.2


class Stopped(KeyboardInterrupt):
    """Raised in the main thread when a signal asks the process to stop.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class SignalWatch:
    """What `stop_on_signals` has seen.

    Attributes:
        number: Number of the first signal that stopped the block, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._raised = float("-inf")
        self._is_open = True

    @property
    def exit_code(self) -> int:
        """Exit code of a process that the signal has ended, as a shell gives it."""
        return 128 + (self.number or 0)

    def end_at_once(self) -> None:
        """From now on, end the process at the first signal, without an exception.

        For the end of a process, when nothing is left to do but what Python does by itself.
        """
        self._close()
        for number in SIGNALS:
            if signal.getsignal(number) == self._stop:
                signal.signal(number, _end)

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if now - self._raised < _SAME_SECONDS:
            return
        self._raised = now
        if self.number is None:
            self.number = number
        if self._is_open and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
        raise Stopped(number)

    def _look(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Raise the exception again if somebody has caught it, and has not ended the block."""
        # while an exception is handled, files are removed and processes ended
        if self.number is not None and sys.exception() is None:
            raise Stopped(self.number)

    def _close(self) -> None:
        """Look no more. A signal that comes now starts no timer, whose handler may be gone."""
        self._is_open = False
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def stop_on_signals(numbers: Sequence[int] = SIGNALS) -> Iterator[SignalWatch]:
    """Raise `Stopped` in the block when a signal arrives, until the block ends.

    Libraries catch exceptions of any kind in some places, for example when Python destroys an
    object. So the exception is raised again while nobody is handling it. Outside the main thread,
    where Python runs no handlers, the block is an ordinary one. Signals that are ignored stay so.

    Args:
        numbers: The signals.

    Yields:
        What the block can ask about the signal. After the block, the handlers are as before.
    """
    watch = SignalWatch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    hook = sys.unraisablehook

    def without_stops(unraisable: Any) -> None:
        # the exception is raised again: a traceback would only confuse
        if not isinstance(unraisable.exc_value, Stopped):
            hook(unraisable)

    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    handlers: dict[int, Callable[..., Any]] = dict.fromkeys(heard, watch._stop)
    if hasattr(signal, "SIGALRM"):
        handlers[signal.SIGALRM] = watch._look
    sys.unraisablehook = without_stops
    try:
        with _handlers(handlers):
            try:
                yield watch
            finally:
                watch._close()
    finally:
        sys.unraisablehook = hook


@contextmanager
def held_back() -> Iterator[None]:
    """Let the first signal wait until the block ends; a second one stops the block.

    For a few lines that are only whole together. The block should take a fraction of a second.
    """
    with _noted(lambda: True):
        yield


class SavingLoop:
    """Lets a signal wait for the next saved state of a training, for less than a second.

    It is a context manager: inside, the first signal is noted if the rest of the step and the
    saving of the state are expected to take less than a second together, and raised otherwise. A
    second signal is always raised. If the block ends by itself, a noted signal is raised then.

    Args:
        save_seconds: How long saving will take, before it has been measured.
    """

    def __init__(self, save_seconds: float) -> None:
        self._save_seconds = save_seconds
        self._step_seconds = float("inf")
        self._began = time.monotonic()
        self._is_saving = False
        self._request: _Request | None = None
        self._stack = ExitStack()

    def __enter__(self) -> SavingLoop:
        self._request = self._stack.enter_context(_noted(self._is_soon_saved))
        return self

    def __exit__(self, *error: Any) -> None:
        self._request = None
        self._stack.__exit__(*error)

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether a signal waits for the next saved state."""
        return self._request is not None and self._request.number is not None

    def begin_step(self) -> None:
        """Note that the first step begins."""
        self._began = time.monotonic()

    def end_step(self) -> None:
        """Note that a step has ended, and that the next one begins."""
        now = time.monotonic()
        self._step_seconds, self._began = now - self._began, now

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long the block takes, which saves the state; then raise a noted signal."""
        began = self._began = time.monotonic()
        self._is_saving = True
        try:
            yield
            self._save_seconds = time.monotonic() - began
        finally:
            self._is_saving = False
            self._began = time.monotonic()
        if self._request is not None:
            self._request.pass_on()

    def _is_soon_saved(self) -> bool:
        since = time.monotonic() - self._began
        if self._is_saving:
            return self._save_seconds - since < _MOST_SECONDS
        return max(0.0, self._step_seconds - since) + self._save_seconds < _MOST_SECONDS


class _Request:
    """A signal that has been noted, and the handlers that it is passed on to."""

    def __init__(self, handlers: dict[int, Callable[..., Any]]) -> None:
        self.handlers = handlers
        self.number: int | None = None
        self.noted = 0.0
        self.is_open = True

    def pass_on(self) -> None:
        """Call the handler of a signal that has been noted, which raises an exception."""
        number, self.number = self.number, None
        if number is not None:
            self.handlers[number](number, None)


@contextmanager
def _noted(may_wait: Callable[[], bool]) -> Iterator[_Request]:
    """Note the first signal in the block if it may wait; pass it on at the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield _Request({})
        return
    request = _Request(
        {
            number: handler
            for number in SIGNALS
            if callable(handler := signal.getsignal(number)) and handler is not _end
        }
    )

    def note(number: int, frame: FrameType | None) -> None:
        if not request.is_open:
            request.handlers[number](number, frame)
        elif request.number is None and may_wait():
            request.number, request.noted = number, time.monotonic()
        elif request.number is None or time.monotonic() - request.noted > _SAME_SECONDS:
            request.handlers[number](number, frame)

    with _handlers(dict.fromkeys(request.handlers, note)):
        try:
            yield request
        finally:
            request.is_open = False
    request.pass_on()


@contextmanager
def _handlers(handlers: dict[int, Callable[..., Any]]) -> Iterator[None]:
    """Install handlers in the block; afterwards restore those that are still there."""
    before = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, before[number])


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    os._exit(128 + number)
