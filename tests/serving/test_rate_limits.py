import asyncio
from pathlib import Path

import pytest

from medcode_serving.api import rate_limits
from medcode_serving.api.keys import add_key
from medcode_serving.api.rate_limits import RateLimits
from medcode_serving.errors import MedcodeError
from tests.serving.test_api_keys import bearer, problem, running, small_app

NOTE = {"text": "fever"}


def test_a_key_has_its_own_limit_or_the_general_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    general = bearer(add_key(keys, "general", ["predict"]))
    own = bearer(add_key(keys, "own", ["predict"], rate_limit="3/day"))
    app = small_app(keys_file=keys, rate_limit="2/day")
    with running(app) as client:
        refused = [client.post("/notes/a", json=NOTE, headers=general) for _ in range(3)][-1]
        problem(refused, 429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 24 * 3600
        assert [client.post("/notes/a", json=NOTE, headers=own).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert client.get("/busy", headers=general).status_code == 503  # no route that counts
    registry = app.state.service.metrics.registry
    assert registry.get_sample_value("medcode_rejected_total", {"reason": "rate_limited"}) == 2


def test_without_keys_an_address_is_counted() -> None:
    with running(small_app(rate_limit="1/day")) as client:
        assert [client.post("/notes/a", json=NOTE).status_code for _ in range(2)] == [200, 429]
    with running(small_app()) as client:
        assert client.post("/notes/a", json=NOTE).status_code == 200


def test_addresses_of_one_customer_count_as_one_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = RateLimits("1/day")
    assert limits.of_address("2001:db8:1:2::3") == limits.of_address("2001:db8:1:2:ffff::4%eth0")
    assert limits.of_address("2001:db8:1:3::3") != limits.of_address("2001:db8:1:2::3")
    assert limits.of_address("10.0.0.1") == "10.0.0.1"
    monkeypatch.setattr(rate_limits, "MAX_ADDRESSES", 10)

    async def flood() -> list[float | None]:
        return [await limits.hit(limits.of_address(f"10.0.{n // 256}.{n % 256}")) for n in range(300)]

    waits = asyncio.run(flood())
    assert waits[0] is None and waits[-1] is not None
    assert len(limits._counters.storage) < 30


@pytest.mark.parametrize("text", ["", "often", "60", "0/minute", "60/minute;1/second", "-1/minute", "5/fortnight"])
def test_a_malformed_limit_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(MedcodeError, match=r"api\.rate_limit: .*60/minute"):
        RateLimits(text)
