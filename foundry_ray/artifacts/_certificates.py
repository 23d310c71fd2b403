"""The certificates by which the parts of the embedded server know each other.

Its master, volumes, filer and gateway talk over gRPC on loopback ports, where passwords are not asked: whoever reaches them reads and deletes
everything. With mutual TLS they serve only who holds the key in `node.key`, and that file is readable by its owner alone. The authority's own
key is forgotten as soon as it has signed, so that there is never a second certificate.
"""

from __future__ import annotations

import os
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.artifacts._secrets import write_private
from foundry_ray.errors import ConfigError
from foundry_ray.secrecy import SecretBytes

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "node.pem", "node.key"
# Valid whatever the clock of the machine says: they protect no longer than the file of the key stays private.
_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


def ensure_certificates(folder: Path) -> Path:
    """The folder itself, with the certificates in it; made where they are not there or cannot be read.

    Raises:
        ConfigError: The package cryptography is not installed.
        OSError: The folder cannot be written.
    """
    if not _are_usable(folder):
        shutil.rmtree(folder, ignore_errors=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        for name, content in _make().items():
            write_private(temporary / name, content)
        temporary.replace(folder)
    return folder


def client_context(folder: Path) -> ssl.SSLContext:
    """How one who holds the key asks the inner ports. Raises OSError where the files are missing or damaged."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the authority has signed one certificate only
    context.load_verify_locations(folder / AUTHORITY)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    context.set_alpn_protocols(["h2"])
    return context


def _are_usable(folder: Path) -> bool:
    try:
        client_context(folder)
    except OSError:  # ssl.SSLError is one
        return False
    return True


def _make() -> dict[str, SecretBytes]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        message = "`store: embedded` needs the package cryptography, which is not installed."
        raise ConfigError(message, hint='`pip install "foundry-ray[embedded]"`, or set `store: file:///path`.') from error
    authority, node = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = serialization.Encoding.PEM
    return {
        AUTHORITY: SecretBytes(_sign("foundry-store-authority", authority, authority).public_bytes(pem)),
        CERTIFICATE: SecretBytes(_sign("foundry-store", node, authority).public_bytes(pem)),
        KEY: SecretBytes(node.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())),
    }


def _sign(name: str, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, "foundry-store-authority"))
    both_sides = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=key is authority, path_length=None), critical=True)
        .add_extension(both_sides, critical=False)
        .sign(authority, hashes.SHA256())
    )
