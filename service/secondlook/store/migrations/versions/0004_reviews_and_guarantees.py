"""Reviews of people and their queue, calibrators and guarantees, decoys."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _reviews()
    _guarantees()
    _decoys()


def _reviews() -> None: ...


def _guarantees() -> None: ...


def _decoys() -> None: ...
