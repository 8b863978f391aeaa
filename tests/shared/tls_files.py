"""Certificates for tests: an authority, what it signed, and a stranger."""

from __future__ import annotations

from pathlib import Path

import trustme


class Files:
    """A certificate authority of the test's own, and what it signed, as PEM files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.server = self._issue(authority, folder, "127.0.0.1", "switch.test")
        self.client = self._issue(authority, folder, "worker.test")
        other = trustme.CA()
        self.other_ca = folder / "other.pem"
        other.cert_pem.write_to_path(self.other_ca)
        self.stranger = self._issue(other, folder, "stranger.test")

    @staticmethod
    def _issue(authority: trustme.CA, folder: Path, *names: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(*names)
        certificate, key = folder / f"{names[0]}.pem", folder / f"{names[0]}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key
