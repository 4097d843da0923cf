"""A timestamp authority for tests: keys and certificates made here, tokens made by OpenSSL's `ts` command."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

CONFIG = """\
[tsa]
default_tsa = us
[us]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
certs = {folder}/ca.pem
signer_key = {folder}/tsa-key.pem
signer_digest = {digest}
default_policy = 1.2.3.4.1
digests = sha256, sha512
ordering = yes
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = {digest}
"""


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key(kind: str) -> Any:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """An authority in a folder; `purpose` and `years` make it one that must not be accepted."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: str = "ec",
        digest: str = "sha256",
        purpose: Any = ExtendedKeyUsageOID.TIME_STAMPING,
        critical: bool = True,
        begin: datetime = BEGIN,
        years: int = 20,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, end = folder, begin + timedelta(days=365 * years)
        ca_key, key = (
            rsa.generate_private_key(65537, 2048)
            if kind == "rsa"
            else ec.generate_private_key(ec.SECP256R1())
            for _ in range(2)
        )
        base = x509.CertificateBuilder().not_valid_before(begin).not_valid_after(end)
        base = base.issuer_name(name("Test CA"))
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
        self.ca = (
            base.subject_name(name("Test CA"))
            .serial_number(1)
            .public_key(ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=True, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        self.certificate = (
            base.subject_name(name("Test TSA"))
            .serial_number(2)
            .public_key(key.public_key())
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=critical)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        (folder / "ca.pem").write_bytes(self.ca.public_bytes(Encoding.PEM))
        (folder / "tsa.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "tsa-key.pem").write_bytes(pem)
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder, digest=digest))

    def answer(self, query: bytes) -> bytes:
        """The TimeStampResp that OpenSSL makes for a query."""
        (self.folder / "query.tsq").write_bytes(query)
        self.openssl("-reply", "-config", "tsa.cnf", "-queryfile", "query.tsq", "-out", "answer.tsr")
        return (self.folder / "answer.tsr").read_bytes()

    def openssl(self, *arguments: str) -> str:
        """Runs `openssl ts` in the authority's folder. Raises CalledProcessError."""
        done = subprocess.run(
            ["openssl", "ts", *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr
