"""How often one caller may ask: by API key, or by client address where there are no keys."""

import ipaddress
import time
from functools import lru_cache

from fastapi import Request
from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from medcode_serving.api.problems import ProblemError
from medcode_serving.errors import MedcodeError

MAX_ADDRESSES = 1000
"""Client addresses counted one by one; more share one count. The store looks through all of its counters at each hit,
which takes 0.5 ms at this number."""

_COUNTERS_PER_ADDRESS = 2  # of the running window and of the one before
_OTHERS = "(others)"


@lru_cache(maxsize=1024)
def parse_limit(text: str) -> RateLimitItem:
    """Read a limit like `60/minute` or `1000/2 hours`.

    Raises:
        MedcodeError: it is no limit, more than one, or allows nothing.
    """
    try:
        limits = parse_many(text)
    except ValueError:
        limits = []
    if len(limits) != 1 or limits[0].amount < 1 or limits[0].get_expiry() < 1:
        raise MedcodeError(f"{text!r} is no rate limit; write one as in 60/minute")
    return limits[0]


class RateLimits:
    """Counts requests in a sliding window: this window's, and those of the last in proportion to what is left of it."""

    def __init__(self, limit: str | None) -> None:
        """Take the limit of callers whose key has none of its own; None: these are not limited.

        Raises:
            MedcodeError: the limit is malformed.
        """
        try:
            self._limit = None if limit is None else parse_limit(limit)
        except MedcodeError as error:
            raise MedcodeError(f"api.rate_limit: {error}") from None
        self._counters = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._counters)

    async def hit(self, caller: str, limit: str | None = None) -> float | None:
        """Count one request.

        Args:
            caller: Whose count it adds to.
            limit: The caller's own limit, which goes before the general one.

        Returns:
            None if it is within the limit, else the seconds until the next one may be.
        """
        item = self._limit if limit is None else parse_limit(limit)
        if item is None or await self._limiter.hit(item, caller):
            return None
        return max(0.0, (await self._limiter.get_window_stats(item, caller)).reset_time - time.time())

    def of_address(self, host: str) -> str:
        """Return the caller that an address counts as; one IPv6 customer has a /64 of them."""
        if len(self._counters.storage) >= MAX_ADDRESSES * _COUNTERS_PER_ADDRESS:
            return _OTHERS
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return host
        if address.version == 6:
            return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address)


async def check_rate(request: Request) -> None:
    """Dependency, to be named after `require`: raises ProblemError 429 with Retry-After beyond the caller's limit."""
    service = request.app.state.service
    limits: RateLimits = service.rate_limits
    key = request.state.api_key
    if key.anonymous:
        caller = "address " + limits.of_address(request.client.host if request.client else "(local)")
    else:
        caller = f"key {key.name}"
    wait = await limits.hit(caller, key.rate_limit)
    if wait is not None:
        service.metrics.rejected.labels("rate_limited").inc()
        detail = "too many requests; the header Retry-After tells when to come back"
        raise ProblemError(429, "rate_limited", detail, retry_after=wait)
