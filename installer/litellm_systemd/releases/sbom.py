"""Software bill of materials: the packages of a release or a bundle in CycloneDX (https://cyclonedx.org/docs/1.6/json/)."""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

SBOM = "sbom.cdx.json"
_OWN = "litellm-systemd"
#: Characters. Some packages have the text of the licence in the field.
_LONGEST_LICENSE = 80


@dataclass(frozen=True, slots=True)
class Package:
    """A package: the METADATA of its wheel, and its SHA-256; that of each wheel that the lock allows if unknown."""

    metadata: Message
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The canonical name."""
        return canonicalize_name(self.metadata["Name"])

    @property
    def version(self) -> str:
        return str(self.metadata["Version"])

    def as_component(self) -> dict[str, Any]:
        purl = f"pkg:pypi/{self.name}@{quote(self.version, safe='')}"
        hashes = [{"alg": "SHA-256", "content": value} for value in self.hashes]
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": self.name,
            "version": self.version,
            "purl": purl,
        }
        if len(hashes) == 1:
            component |= {"hashes": hashes}
        elif hashes:
            component |= {"externalReferences": [{"type": "distribution", "url": purl, "hashes": hashes}]}
        licenses = list(self._licenses())
        return component | ({"licenses": licenses} if licenses else {})

    def _licenses(self) -> Iterator[dict[str, Any]]:
        if expression := self.metadata["License-Expression"]:
            yield {"expression": str(expression)}
            return
        classifiers = [text for text in self.metadata.get_all("Classifier", []) if text.startswith("License :: ")]
        names = [text.rpartition(" :: ")[2] for text in classifiers if text != "License :: OSI Approved"]
        text = str(self.metadata["License"] or "")
        if not names and "\n" not in text and 0 < len(text) <= _LONGEST_LICENSE:
            names = [text]
        yield from ({"license": {"name": name}} for name in names)


def build_sbom(
    version: str, packages: Iterable[Package], made: str, identity: str, others: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the document.

    Args:
        version: of litellm-systemd, which is the component that the document describes.
        packages: all others; litellm-systemd among them is left out.
        made: UTC (ISO 8601).
        identity: the same text gives the same serial number.
        others: components that are no packages.
    """
    known = sorted((item for item in packages if item.name != _OWN), key=lambda item: item.name)
    tool = {"type": "application", "name": "litellmctl", "version": version}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": made,
            "tools": {"components": [tool]},
            "component": {"type": "application", "bom-ref": _OWN, "name": _OWN, "version": version},
        },
        "components": [*(item.as_component() for item in known), *others],
    }


def installed_packages(venv: Path, hashes: Mapping[tuple[str, str], tuple[str, ...]]) -> Iterator[Package]:
    """Return the packages of a venv. `hashes` maps name and version to the hashes of the lock."""
    found = distributions(path=[str(path) for path in venv.glob("lib/python*/site-packages")])
    for item in found:
        metadata = HeaderParser().parsestr(item.read_text("METADATA") or "")
        if metadata["Name"]:
            known = hashes.get((canonicalize_name(metadata["Name"]), str(metadata["Version"])), ())
            yield Package(metadata, known)


def packed_package(wheel: Path, digest: str) -> Package:
    """Return the package of a wheel with that SHA-256."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1
        )
        return Package(HeaderParser().parsestr(archive.read(name).decode(errors="replace")), (digest,))
