"""Requests generated from the service's own OpenAPI cause no 5xx, and the answers follow the schema."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.apex_home import Apex
from tests.support.online_service import running

EXAMPLES = 80


def fuzz(operation: Any, mode: Any, url: str) -> set[int]:
    """Call one operation with many requests; returns the statuses that came."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    expected = [checks.response_schema_conformance, checks.content_type_conformance, checks.status_code_conformance]
    observed: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        answer = case.call(base_url=url)
        observed.add(answer.status_code)
        case.validate_response(answer, checks=[not_a_server_error, *expected])

    call()
    return observed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_request_causes_a_server_error(scoring: Apex) -> None:
    import schemathesis
    from schemathesis import GenerationMode

    with running(scoring) as service:
        service.ready(ready=True)
        schema = schemathesis.openapi.from_dict(httpx.get(f"{service.url}/openapi.json").json())
        operations = {result.ok().label: result.ok() for result in schema.get_all_operations()}
        predict = operations.pop("POST /predict")
        assert fuzz(predict, GenerationMode.NEGATIVE, service.url) & {415, 422}
        assert fuzz(predict, GenerationMode.POSITIVE, service.url) & {200, 422}
        for operation in operations.values():
            assert fuzz(operation, GenerationMode.POSITIVE, service.url) == {200}
        assert len(operations) == 4 and service.ready(ready=True)["problems"] == []
        assert "Traceback" not in service.log.read_text()
