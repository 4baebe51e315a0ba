from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest

from medcode_serving.api import create_app
from medcode_serving.api.codes import SystemName
from medcode_serving.codes.systems import SYSTEMS
from tests.serving.test_api_batches import MARKER, Server, prior_home, settings_for  # noqa: F401 - a fixture

EMBEDDED = "Type 2 diabetes mellitus without complications"


@pytest.fixture(scope="module")
def client(prior_home: Path) -> Iterator[httpx.Client]:  # noqa: F811
    with Server(create_app(settings_for(prior_home))) as server, server.client() as client:
        yield client


def test_a_code_however_it_is_written(client: httpx.Client) -> None:
    card = client.get("/codes/icd10cm/e119").json()
    assert card == client.get("/codes/icd10cm/E11.9", params={"recipe": "icd"}).json()
    assert card == {
        "system": "icd10cm",
        "code": "E11.9",
        "description": EMBEDDED,
        "predicted": True,
        "training_frequency": 9,
        "valid": True,
        "known": True,
        "category": "E11",
        "chapter": {"name": "E00-E89", "title": card["chapter"]["title"]},
    }
    assert client.get("/codes/icd10pcs/0DTJ4ZZ").json()["description"] is None


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("icd10cm/E11.99", 404, "unknown_code"),
        ("icd10cm/Z99.9", 404, "unknown_code"),
        (f"icd10cm/{MARKER}", 422, "malformed_code"),
        ("icd10cm/E１１", 422, "malformed_code"),
        ("icd10pcs/E11.9", 422, "malformed_code"),
        (f"{MARKER}/E11", 404, "unknown_system"),
        (f"icd10cm/E11?recipe={MARKER}", 404, "unknown_recipe"),
    ],
)
def test_codes_that_are_not_found(client: httpx.Client, path: str, status: int, kind: str) -> None:
    response = client.get(f"/codes/{path}")
    assert (response.status_code, response.json()["type"]) == (status, f"urn:medcode:problem:{kind}")
    assert MARKER not in response.text


def test_near_codes_are_named(client: httpx.Client) -> None:
    assert client.get("/codes/icd10cm/e1199").json()["detail"].endswith("there are E11.9, E11, E11.65")


def test_search(client: httpx.Client) -> None:
    def found(**query) -> list[str]:
        response = client.get("/codes", params=query)
        assert response.status_code == 200, response.text
        return [code["code"] for code in response.json()["codes"]]

    assert found(q="type 2 diab") == ["E11", "E11.9", "E11.65"]
    assert found(q="hypertension") == ["I10", "401.9"]
    assert found(q="hypertension", system="icd9cm") == ["401.9"]
    assert found(q="E11", limit=1) == ["E11"]
    assert found(q=MARKER) == []


@pytest.mark.parametrize("query", ["", "?q=", f"?q={'x' * 201}", f"?q=a&system={MARKER}", "?q=a&limit=0"])
def test_searches_that_are_refused(client: httpx.Client, query: str) -> None:
    response = client.get(f"/codes{query}")
    assert response.json()["type"] == "urn:medcode:problem:invalid_request"
    assert MARKER not in response.text


def test_the_systems_are_those_that_are_described(client: httpx.Client) -> None:
    listed = client.get("/codes/systems").json()
    assert [system["system"] for system in listed] == list(SYSTEMS) == list(get_args(SystemName))
