"""Things by name, of which some still lie on disk and are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(MutableMapping[str, T], Generic[T]):
    """A dict whose values may be read later.

    Args:
        read: Returns the value of a name that was only announced.
    """

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read
        self._values: dict[str, T | None] = {}

    def announce(self, name: str) -> None:
        """Say that there is something of this name, to be read when it is asked for."""
        self._values[name] = None

    def __getitem__(self, name: str) -> T:
        value = self._values[name]
        if value is None:
            value = self._values[name] = self._read(name)
        return value

    def __setitem__(self, name: str, value: T) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __contains__(self, name: object) -> bool:
        # that of a mapping would read the value to find out
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
