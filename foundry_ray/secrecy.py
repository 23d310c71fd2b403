"""Texts and tables that no repr shows: tracebacks with local variables, debuggers and test reports print reprs.

A `Secret` is a str in every other way, so that it goes wherever a str goes, through libraries too, and stays hidden in their frames. It is no
protection from code that means to read it, and what else is computed from it (an f-string, an encoded copy) is plain again.
"""

from __future__ import annotations

from typing import SupportsIndex, overload

_SHOWN = "<secret>"


class Secret(str):
    """A secret text. Parts of it are secret too: some printers cut long texts before they show them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _SHOWN

    def __getitem__(self, index: SupportsIndex | slice) -> Secret:
        return Secret(super().__getitem__(index))

    def strip(self, chars: str | None = None) -> Secret:
        return Secret(super().strip(chars))

    def partition(self, sep: str) -> tuple[Secret, Secret, Secret]:
        before, between, after = super().partition(sep)
        return Secret(before), Secret(between), Secret(after)


class SecretBytes(bytes):
    """Secret bytes, the content of a private file for instance."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _SHOWN

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> SecretBytes: ...

    def __getitem__(self, index: SupportsIndex | slice) -> int | SecretBytes:
        return SecretBytes(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)


class Variables(dict[str, str]):
    """Environment variables; their values are as secret as the worst of them."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"
