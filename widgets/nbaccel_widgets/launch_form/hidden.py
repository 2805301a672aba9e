"""Secrets in what a field shows: asterisks stand in for them, and are turned back into them. Pure."""

from __future__ import annotations

from typing import Any

from nbaccel.config.secrets import MASK
from nbaccel_widgets.launch_form.values import WrittenError, code_of

_UNKNOWN = "asterisks stand for a secret: write it, or the name of a variable that holds it"


class Hidden:
    """The secrets of one field. Each has as many asterisks as no other has, so that an edited text still means it."""

    def __init__(self) -> None:
        self._secrets: list[Any] = []

    def code_of(self, value: Any) -> str:
        """The code that makes a value, without the secrets in it."""
        return code_of(value, hide=self._asterisks)

    def _asterisks(self, secret: Any) -> str:
        place = next((place for place, known in enumerate(self._secrets) if _is_same(known, secret)), None)
        if place is None:
            place = len(self._secrets)
            self._secrets.append(secret)
        return MASK + "*" * place

    def meant(self, value: Any) -> Any:
        """A value that was written, with the secrets again that asterisks stand for.

        Raises:
            WrittenError: there are asterisks that stand for none.
        """
        if isinstance(value, dict):
            return {key: self.meant(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.meant, value))
        if not isinstance(value, str) or not value.startswith(MASK) or value.strip("*"):
            return value
        place = len(value) - len(MASK)
        if place >= len(self._secrets):
            raise WrittenError(_UNKNOWN)
        return self._secrets[place]

    def check(self, text: str) -> None:
        """A text that is taken as it is. Raises WrittenError if there are asterisks in it."""
        if MASK in text:
            raise WrittenError(_UNKNOWN)


def _is_same(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except Exception:  # noqa: BLE001 - a comparison of the user's own raises what it likes
        return False
