"""Numbers and dates as the reader's browser asks for them, and pseudonyms of users."""

import hashlib
import hmac
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal, format_percent
from cachetools import LRUCache

ENGLISH = Locale("en")
LOCALE: ContextVar[Locale] = ContextVar("locale")
LATER = 10_000  # pseudonyms of users who came later or were typed, so that their pages open again


def locale_of(accepted: str) -> Locale:
    """The first language of an ``Accept-Language`` header that is known; English without one.

    Example:
        >>> locale_of("tlh, de-CH;q=0.9, en;q=0.8")
        Locale('de', territory='CH')
    """
    for part in accepted[:200].split(","):
        try:
            return Locale.parse(part.partition(";")[0].strip(), sep="-")
        except (ValueError, TypeError, UnknownLocaleError):
            continue
    return ENGLISH


def _locale() -> Locale:
    return LOCALE.get(ENGLISH)


def number(value: float, digits: int = 0) -> str:
    """A number with so many digits behind the decimal sign."""
    return format_decimal(value, "#,##0" + "." * bool(digits) + "0" * digits, _locale())


def signed(value: float, digits: int = 4) -> str:
    """The same with its sign."""
    style = "#,##0" + "." * bool(digits) + "0" * digits
    return format_decimal(value, f"+{style};-{style}", _locale())


def percent(value: float, digits: int = 0) -> str:
    """A share as per cent."""
    return format_percent(value, "#,##0" + "." * bool(digits) + "0" * digits + "%", _locale())


def moment(microseconds: int) -> str:
    """A time in UTC, without the time of day where that is midnight."""
    found = datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    if (found.hour, found.minute, found.second) == (0, 0, 0):
        return format_date(found, locale=_locale())
    return format_datetime(found, locale=_locale())


class Names:
    """What users are called on pages: by their ids, or by pseudonyms.

    Args:
        users: Ids.
        key: Of the pseudonyms, which stay the same as long as it does; None for ids.

    Example:
        >>> names = Names(["ann"], key="secret")
        >>> names.shown("ann"), names.user(names.shown("ann"))
        ('u-aad4e6199b', 'ann')
    """

    def __init__(self, users: Iterable[str], key: str | None) -> None:
        self._key = key
        self._later: LRUCache[str, str] = LRUCache(LATER)
        self._users: dict[str, str] = {}
        if key is not None:
            self._users = {_pseudonym(user, key): user for user in users}

    def shown(self, user: str) -> str:
        """What a user is called."""
        if self._key is None:
            return user
        name = _pseudonym(user, self._key)
        if name not in self._users:
            self._later[name] = user
        return name

    def user(self, name: str) -> str:
        """The id of what a person typed or an address says: a pseudonym, or an id itself."""
        if self._key is None:
            return name
        return self._users.get(name) or self._later.get(name) or name


def _pseudonym(user: str, key: str) -> str:
    digest = hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()
    return f"u-{digest[:10]}"
