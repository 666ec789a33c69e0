"""The device's client of the service, with its token and certificates."""

from secondlook.edge.settings import EdgeSettings
from secondlook_client import Client, RetryPolicy
from secondlook_client.channel import AccessOptions, read_token


def connect(settings: EdgeSettings, retry: RetryPolicy) -> Client:
    """A client of the service that the settings name.

    Raises ``NotFound`` and ``BadSetting`` for files that cannot be read or used.
    """
    access: AccessOptions = {
        "ca": settings.ca,
        "cert": settings.client_cert,
        "key": settings.client_key,
    }
    if settings.token_file:
        access["token"] = read_token(settings.token_file)
    return Client(settings.server, retry=retry, **access)
