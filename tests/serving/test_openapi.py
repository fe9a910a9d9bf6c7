"""The service conforms to its OpenAPI document, tested by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from runtime.serving.settings import Settings
from tests.serving.live import Live, base64_of, encoded, engines_in, picture, policy_in, serving

OPERATIONS = (
    ("POST", "/v1/ages"),
    ("POST", "/v1/decisions"),
    ("GET", "/v1/experts"),
    ("POST", "/v1/reload"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that decides, too."""
    engines = engines_in(tmp_path_factory.mktemp("served") / "engines")
    policy_in(engines)
    with serving(Settings(engines, policy=True)) as running:
        yield running


@pytest.fixture(scope="module")
def api(live: Live) -> Any:
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json")


def test_all_operations_are_listed(api: Any) -> None:
    operations = [result.ok() for result in api.get_all_operations()]
    assert sorted((o.method.upper(), o.path) for o in operations) == sorted(OPERATIONS)


INVALID = [(*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS[:2]]
"""The other operations have no parameters that could be invalid."""


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [*((*operation, GenerationMode.POSITIVE) for operation in OPERATIONS), *INVALID],
)
def test_every_operation_conforms(api: Any, method: str, path: str, mode: GenerationMode) -> None:
    @settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call()
        case.validate_response(response, excluded_checks=inapplicable(case, response))

    check()


def inapplicable(case: Any, response: Any) -> list[Any]:
    """Returns the checks that do not apply to a schema, a form or a one-millisecond deadline."""
    excluded: list[Any] = [positive_data_acceptance]  # no schema describes pictures
    if case.media_type == "multipart/form-data":
        excluded.append(negative_data_rejection)  # an empty list sends no field at all
    if response.status_code == HTTPStatus.GATEWAY_TIMEOUT:
        excluded.append(not_a_server_error)
    return excluded


def test_an_answer_conforms(live: Live, api: Any) -> None:
    body = {"images": [base64_of(encoded(picture(1)))], "detect": False, "threshold": 30}
    response = live.client.post("/v1/ages", json=body)
    assert response.status_code == 200
    api["/v1/ages"]["POST"].validate_response(response)


@pytest.mark.parametrize("boxes", [None, [[[2, 2, 12, 12]], None]])
def test_a_decision_conforms(live: Live, api: Any, boxes: Any) -> None:
    body = {"images": [base64_of(encoded(picture(seed))) for seed in (1, 2)], "boxes": boxes}
    response = live.client.post("/v1/decisions", json=body)
    assert response.status_code == 200, response.text
    assert (response.json()["estimate"] is None) == (boxes is None)
    api["/v1/decisions"]["POST"].validate_response(response)
