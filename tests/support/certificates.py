"""Certificates for a test: an authority, and what it signs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certified:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """As ``name.crt`` and ``name.key``; the paths."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            path.write_bytes(content)
        return str(paths[0]), str(paths[1])


class Authority:
    """Signs certificates for this machine."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        whole = self._builder(self._name, self._key.public_key())
        whole = whole.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = pem(whole.sign(self._key, hashes.SHA256()))
        """PEM."""

    def certify(self, name: str) -> Certified:
        """A certificate of ``localhost`` and 127.0.0.1, whoever it is of."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        places = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        whole = self._builder(subject, key.public_key())
        whole = whole.add_extension(x509.SubjectAlternativeName(places), critical=False)
        written = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Certified(pem(whole.sign(self._key, hashes.SHA256())), written)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


def pem(certificate: x509.Certificate) -> bytes:
    """As it stands in a file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


@cache
def authority() -> Authority:
    """One for all tests."""
    return Authority()
