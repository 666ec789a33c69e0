"""Secrets out of text: passwords in URLs, tokens, values of environment variables that hold keys.

Whoever names a URL in an error names it ``redacted``; log lines, errors on the terminal and errors
that travel pass through it once more, as other packages put URLs into their own errors.
"""

import os
import re
from functools import cache

HIDDEN = "…"
PLACEHOLDER = "user:password"
"""What help and errors write for a user and a password."""
MIN_SECRET = 8
"""Characters from which on the value of a variable counts as a key, not as a word."""
_URL = re.compile(r"(?<![\w+.-])([a-zA-Z][\w+.-]*://)([^\s\"'<>]+)")
_USER_WITHOUT_SCHEME = re.compile(r"(?<=@)[^@:/\s]+:[^@/\s]+(?=@)")
"""As in ``model@user:password@host``."""
_SECRET_PARAMETER = re.compile(
    r"([?&;][^=&;\s]*(?:key|secret|token|passw|pwd|signature|credential)[^=&;\s]*=)[^&;\s\"'<>]+",
    re.IGNORECASE,
)
TOKEN_PREFIX = "slt_"
"""What the secret of a token begins with; see ``core.access``."""
_TOKEN = re.compile(rf"{TOKEN_PREFIX}[\w-]+")
_JWT = re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*")
"""Of an OIDC issuer; JSON that begins with {" in base64."""
_SECRET_VARIABLE = re.compile(r"API_KEY|ACCESS_KEY|SECRET|PASSWORD|PASSWD|TOKEN(?!I)")


def redacted(text: str) -> str:
    """``text`` without users and passwords of URLs, secret parameters of them, and known keys."""
    if "://" in text:
        text = _SECRET_PARAMETER.sub(rf"\1{HIDDEN}", _URL.sub(_without_user, text))
    if text.count("@") > 1:
        text = _USER_WITHOUT_SCHEME.sub(HIDDEN, text)
    if TOKEN_PREFIX in text:
        text = _TOKEN.sub(rf"{TOKEN_PREFIX}{HIDDEN}", text)
    if "eyJ" in text:
        text = _JWT.sub(HIDDEN, text)
    for secret in _known_secrets():
        text = text.replace(secret, HIDDEN)
    return text


def url_scheme(url: str) -> str:
    """What a URL begins with, for an error about it; nothing of one without a scheme."""
    scheme, separator, _ = url.partition("://")
    named = separator and re.fullmatch(r"[a-zA-Z][\w+.-]{0,19}", scheme)
    return f"one that begins with '{scheme}'" if named else "one without a scheme"


def _without_user(url: re.Match[str]) -> str:
    scheme, rest = url.groups()
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not at:
        # A password with a "/" in it, which nobody escaped, ends the authority too early.
        _, colon, port = authority.rpartition(":")
        if not colon or port.isdecimal() or authority.startswith("["):
            return url[0]
        user, at, _ = rest.rpartition("@")
    hidden = at and user.lower() != PLACEHOLDER
    return f"{scheme}{HIDDEN}@{rest[len(user) + 1 :]}" if hidden else url[0]


@cache
def _known_secrets() -> tuple[str, ...]:
    named = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    return tuple(sorted((value for value in named if len(value) >= MIN_SECRET), key=len))[::-1]
