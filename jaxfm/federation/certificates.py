"""Certificates for trying a federation on one machine: an authority of its own, and a server's, for the loopback.

Parties on several machines take certificates of an authority that they trust; these are for 127.0.0.1 and localhost
alone, and valid for a week.
"""

import datetime
import ipaddress
import os
import pathlib
from typing import NamedTuple

from jaxfm.errors import UserError, install_hint

_DAYS = 7


class Certificates(NamedTuple):
    """Files in PEM: of the authority, and of the server with its key."""

    authority: pathlib.Path
    server: pathlib.Path
    key: pathlib.Path


def write_certificates(folder: pathlib.Path) -> Certificates:
    """Makes a new authority, whose key is thrown away, and a certificate of it for a server on the loopback.

    Raises UserError where the package cryptography is not installed.
    """
    try:
        from cryptography import x509  # pyright: ignore[reportMissingImports]
        from cryptography.hazmat.primitives import hashes, serialization  # pyright: ignore[reportMissingImports]
        from cryptography.hazmat.primitives.asymmetric import ec  # pyright: ignore[reportMissingImports]
        from cryptography.x509.oid import NameOID  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(f"Certificates need the package {error.name}: {install_hint('federated')}.") from None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    now = datetime.datetime.now(datetime.UTC)

    def signed(name: str, key: ec.EllipticCurvePrivateKey, by: str, with_key: ec.EllipticCurvePrivateKey) -> bytes:
        is_authority = name == by
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(with_key.public_key()), critical=False)
        )
        if is_authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        return builder.sign(with_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = "jaxfm federation on one machine"
    found.authority.write_bytes(signed(authority, authority_key, authority, authority_key))
    found.server.write_bytes(signed("localhost", server_key, authority, authority_key))
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with open(os.open(found.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(private)
    return found
