"""Schemathesis sends what the OpenAPI description allows, and what it does not, and checks every answer against it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from medcode_serving.api import create_app
from tests.serving.test_api import settings_for, start

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def description(home: Path) -> Iterator[schemathesis.BaseSchema]:
    client, stop = start(create_app(settings_for(home, **{"documents.timeout_s": 2})))
    with client:
        yield schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
    stop()


def test_every_answer_is_as_described_and_none_is_a_failure(description: schemathesis.BaseSchema) -> None:
    tried = 0
    for operation in description.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        ask()
        tried += 1
    assert tried > 15
