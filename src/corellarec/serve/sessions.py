"""Sessions of people in the explorer: a cookie after a key was entered once."""

import secrets
import time
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie

from cachetools import TTLCache

from corellarec.serve.keys import Key, find_key

COOKIE = "corellarec_session"
SECONDS = 12 * 3600
MOST = 1000  # sessions at once; the oldest end first


class Sessions:
    """Who has entered which key.

    Args:
        keys: Of callers.
        clock: Seconds, for tests.
    """

    def __init__(self, keys: Sequence[Key], clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = keys
        self._word: str | None = None
        self._sessions: TTLCache[str, Key] = TTLCache(MOST, SECONDS, timer=clock)

    def begin(self, given: str) -> str | None:
        """The cookie's value for a key with the scope ``explore``; None for any other."""
        key = find_key(self.keys, given.strip())
        if key is None or "explore" not in key.scopes:
            return None
        token = secrets.token_urlsafe(32)
        self._sessions[token] = key
        return token

    def begin_once(self, given: str) -> str | None:
        """The cookie's value for the word of :meth:`word`, which counts once."""
        if self._word is None or not secrets.compare_digest(given.encode(), self._word.encode()):
            return None
        self._word, token = None, secrets.token_urlsafe(32)
        self._sessions[token] = Key("explorer", "", ("explore",))
        return token

    def word(self) -> str:
        """A word that begins one session without a key, for the address that a person opens."""
        self._word = secrets.token_urlsafe(16)
        return self._word

    def find(self, cookies: str) -> Key | None:
        """The key of a request's cookies."""
        try:
            cookie = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return None
        return self._sessions.get(cookie.value) if cookie else None
