import re

import grpc
import pytest

from secondlook_client import errors
from secondlook_client.errors import (
    BadRequest,
    Busy,
    LocalFailure,
    SecondlookError,
    ServerFailure,
)


def tree(base: type[SecondlookError] = SecondlookError) -> list[type[SecondlookError]]:
    """The errors of the tree; one that a module derives for itself travels as its base."""
    children = (c for c in base.__subclasses__() if c.__module__ == errors.__name__)
    return [base, *(found for child in children for found in tree(child))]


@pytest.mark.parametrize("error", tree(), ids=lambda error: error.__name__)
def test_every_error_travels_as_a_status_that_exists(error: type[SecondlookError]) -> None:
    assert hasattr(grpc.StatusCode, error.status)
    assert error.status not in ("OK", "UNKNOWN")
    internal = error is SecondlookError or issubclass(error, ServerFailure | LocalFailure)
    assert internal == (error.status == "INTERNAL")


def test_reasons_are_stable_words_and_each_its_own() -> None:
    reasons = [error("x").reason for error in tree()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", reason) for reason in reasons)
    assert errors.BadImage("x").reason == "bad_image"
    assert errors.DeadlineExceeded("x").reason == "deadline_exceeded"


def test_the_docstring_draws_every_error_with_its_status() -> None:
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"[├└]── (\w+)(?: +([A-Z_]+))?", errors.__doc__))
    ours = [error for error in tree()[1:] if error.__module__ == errors.__name__]
    assert set(drawn) == {error.__name__ for error in ours}
    assert all(error.__doc__ for error in ours)
    for error in ours:
        if drawn[error.__name__]:
            assert drawn[error.__name__] == error.status
        else:
            assert error.status == error.__mro__[1].status  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", tree()[1:], ids=lambda error: error.__name__)
def test_every_error_comes_back_from_the_wire_as_itself(error: type[SecondlookError]) -> None:
    trailing = {"secondlook-reason": error("x").reason}
    assert type(errors.from_status(error.status, "x", trailing, "host:1")) is error
    assert type(errors.from_reason(error("x").reason, "x")) is error
    assert errors.from_reason(error("x").reason, "x").from_server and not error("x").from_server


def test_an_unknown_reason_is_typed_by_its_status() -> None:
    unknown = {"secondlook-reason": "of_a_newer_server"}
    kinds = {"RESOURCE_EXHAUSTED": errors.Busy, "FAILED_PRECONDITION": errors.NotReady}
    for status, kind in kinds.items():
        found = errors.from_status(status, "x", unknown, "host:1")
        assert type(found) is kind and found.reason == "of_a_newer_server"
        assert found.retry_after_s is None
    assert type(errors.from_status("UNKNOWN", "x", unknown, "host:1")) is errors.ServerFailure


def test_busy_carries_its_hint() -> None:
    assert Busy("full").retry_after_s == 1.0
    assert Busy("full", retry_after_s=0.2).retry_after_s == 0.2


def test_a_wrong_request_names_its_field() -> None:
    assert BadRequest("no", field="ontology.classes[0].name").field == "ontology.classes[0].name"
    assert BadRequest("no").field == "" and BadRequest("no", reason="other").reason == "other"
