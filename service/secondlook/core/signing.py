"""Signatures of models: ed25519, by a key of the server, checked on devices.

What is signed is a model's name and the SHA-256 of its manifest, which names the SHA-256 of every
file: so one signature holds for the whole student, and none fits the same student under another
name. The version is not signed, as a rollback goes back to an older one.
"""

from collections.abc import Callable
from pathlib import Path

from secondlook.config.extras import check_extras
from secondlook_client.errors import BadSetting, Damaged
from secondlook_client.private_files import open_private

DOMAIN = b"secondlook model 1\0"
"""Before what is signed, so that the signature means nothing elsewhere."""
PUBLIC_SUFFIX = ".pub"
MAX_KEY_BYTES = 16 * 2**10


def create_key(path: Path) -> Path:
    """Write a new private key (PEM, for its owner alone) to ``path``, which may not be there yet,
    and the public one beside it, whose path is returned.

    Raises ``BadSetting`` and ``MissingExtra``.
    """
    check_extras("signing models", "signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, public = Ed25519PrivateKey.generate(), path.with_name(path.name + PUBLIC_SUFFIX)
    encoding = serialization.Encoding.PEM
    private_pem = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        encoding, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        with open_private(path, "xb") as file:
            file.write(private_pem)
        public.write_bytes(public_pem)
    except OSError as cause:
        why = (cause.strerror or str(cause)).lower()
        raise BadSetting(f"the key {path} cannot be written: {why}; give another file") from cause
    return public


class ModelSigner:
    """Signs models with one private key."""

    def __init__(self, path: str) -> None:
        """Raises ``BadSetting`` and ``MissingExtra``."""
        check_extras("signing models", "signing")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = _loaded(path, lambda pem: load_pem_private_key(pem, None))
        if not isinstance(key, Ed25519PrivateKey):
            raise _no_key(path, "private")
        self._key: Ed25519PrivateKey = key

    def sign(self, name: str, digest: str) -> bytes:
        """The signature, 64 bytes, of a model of that name and digest of its manifest."""
        return self._key.sign(_signed(name, digest))


class SignatureChecker:
    """Checks signatures against one public key."""

    def __init__(self, path: str) -> None:
        """Raises ``BadSetting`` and ``MissingExtra``."""
        check_extras("checking signatures of models", "signing")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        key = _loaded(path, load_pem_public_key)
        if not isinstance(key, Ed25519PublicKey):
            raise _no_key(path, "public")
        self._key: Ed25519PublicKey = key

    def check(self, name: str, digest: str, signature: bytes) -> None:
        """Raises ``Damaged`` unless the signature is the key's, for that name and digest."""
        from cryptography.exceptions import InvalidSignature

        if not signature:
            raise Damaged(
                f"this version of '{name:.200}' has no signature, and the device takes none "
                "without: start the server with --model-signing-key, and add or promote it again"
            )
        try:
            self._key.verify(signature, _signed(name, digest))
        except InvalidSignature as cause:
            raise Damaged(
                f"the signature of this version of '{name:.200}' is not that of the device's key; "
                "check which key the server signs with, and who may write to its store"
            ) from cause


def _signed(name: str, digest: str) -> bytes:
    return DOMAIN + name.encode() + b"\0" + digest.encode()


def _loaded(path: str, load: Callable[[bytes], object]) -> object:
    try:
        with Path(path).open("rb") as file:
            return load(file.read(MAX_KEY_BYTES))
    except OSError as cause:
        why = (cause.strerror or str(cause)).lower()
        raise BadSetting(f"the key {path} cannot be read: {why}; give another file") from cause
    except (ValueError, TypeError) as cause:  # of another kind, or with a password
        raise _no_key(path, "usable") from cause


def _no_key(path: str, kind: str) -> BadSetting:
    return BadSetting(
        f"{path} is no {kind} ed25519 key in PEM; make one with `secondlook models create-key`"
    )
