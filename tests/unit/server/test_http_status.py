"""The status of HTTP that an error has, for the page and for Label Studio."""

import inspect

from secondlook.server.bridge.connect import http_status_of
from secondlook_client import errors


def test_every_error_has_a_status_of_http() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    ours = [kind for kind in kinds if issubclass(kind, errors.SecondlookError)]
    statuses = {kind: http_status_of(kind("why")) for kind in ours}
    assert statuses[errors.Busy] == 429
    assert statuses[errors.NotAuthenticated] == 401
    assert statuses[errors.BadImage] == 400
    assert set(statuses.values()) <= {400, 401, 403, 404, 409, 429, 499, 500, 501, 503, 504}
