"""Certificates of the loopback: a handshake succeeds by their names alone."""

import pathlib
import ssl
import stat

import pytest

from jaxfm.federation.certificates import write_certificates

pytest.importorskip("cryptography", reason="needs the extra `federated`: cryptography comes with flwr")


def test_certificates_are_for_the_loopback_and_of_their_authority(tmp_path: pathlib.Path) -> None:
    made = write_certificates(tmp_path / "tls")
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=made.authority)
    server.load_cert_chain(made.server, made.key)
    for name, is_good in (("127.0.0.1", True), ("localhost", True), ("example.org", False)):
        ends = ssl.MemoryBIO(), ssl.MemoryBIO()
        near = client.wrap_bio(ends[0], ends[1], server_hostname=name)
        far = server.wrap_bio(ends[1], ends[0], server_side=True)
        for each in (near, far, near):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                assert not is_good
                break
        else:
            assert is_good and near.getpeercert()
