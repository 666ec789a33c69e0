"""Whose a job, stream or training is, and who may change it.

What a call makes is of its token: the token's name is kept with it (``created_by``), so a token
that was revoked and made again under its name owns what it did. Only its owner or an administrator
ends it, tries it again or adds images to it; everybody with the role does where it has no owner,
as it was made without tokens. A device has its streams by its scope, whoever began them.
"""

from secondlook.core.access import Role
from secondlook.server.token_table import principal_of_call
from secondlook_client.errors import NotAllowed


def creator() -> str:
    """Name of the token of the call that runs here; empty: it needed none.

    To be asked in the call itself, not in a thread that works for it.
    """
    principal = principal_of_call.get()
    return principal.name if principal.token else ""


def check_owner(created_by: str, what: str, stream: str = "") -> None:
    """Raises ``NotAllowed`` where ``what``, such as "job 'street'", is another token's.

    ``stream``: its name, where it is a stream, which devices have by their scope.
    """
    principal = principal_of_call.get()
    own = principal.token is None or principal.name == created_by
    if own or not created_by or Role.ADMIN in principal.access.roles:
        return
    if stream and stream in principal.access.streams:
        return
    raise NotAllowed(
        f"{what} was made with the token '{created_by}'; only that token or an administrator's "
        "may change it: use it, or choose another name"
    )
