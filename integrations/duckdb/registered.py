"""Indexes and graphs as macros know them: by a token, which SQL can hold."""

import uuid
import weakref
from typing import Generic, TypeVar

from attnbridge.errors import InvalidConfigError

Thing = TypeVar("Thing")

# What macros have for a token where nothing is registered.
NONE = "none"


class Registered(Generic[Thing]):
    """Things by token, none of them kept alive: who registered it does that.

    Parameters
    ----------
    name : str
        What `register` calls it.
    needed_by : str
        Who cannot do without, for the error that says so.
    """

    def __init__(self, name: str, needed_by: str) -> None:
        self._name, self._needed_by = name, needed_by
        self._tokens: weakref.WeakKeyDictionary[Thing, str] = weakref.WeakKeyDictionary()
        self._things: weakref.WeakValueDictionary[str, Thing] = weakref.WeakValueDictionary()

    def token_of(self, thing: Thing) -> str:
        """Return the token of a thing, the same as long as there is the thing."""
        token = self._tokens.setdefault(thing, uuid.uuid4().hex)
        self._things[token] = thing
        return token

    def known(self, token: str) -> str:
        """Return a token where its thing is still there, else the one of nothing."""
        return token if token in self._things else NONE

    def get(self, token: str) -> Thing | None:
        """Return what has a token, None where it is gone."""
        return self._things.get(token)

    def require(self, token: str) -> Thing:
        """Return what has a token.

        Raises
        ------
        InvalidConfigError
        """
        thing = self._things.get(token)
        if thing is None:
            got = "none is registered" if token == NONE else "the one registered is gone, or of another process"
            article = "an" if self._name[0] in "aeiou" else "a"
            raise InvalidConfigError(
                f"{self._needed_by} needs {article} {self._name}, {got}; call "
                f"attnbridge.integrations.duckdb.register(con, {self._name}=...)"
            )
        return thing
