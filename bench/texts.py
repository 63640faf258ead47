"""Fetches real texts that a Debian mirror carries; does not know what they are measured for."""

import gzip
import re
import subprocess
from dataclasses import dataclass
from typing import Final

from mesh.cache import cache_folder

# English prose, as gzipped text by package. GPL-2+, so it is fetched and not shipped.
TEXTS: Final = {
    "debian-faq": "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz",
    "debian-reference-en": "usr/share/debian-reference/debian-reference.en.txt.gz",
}
_HEADING: Final = re.compile(r"^\d+(?:\.\d+)+\. +(\S.*(?:\n\S.*)*)\n\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is written below it, each on one line."""

    title: str
    body: str


def read_text(package: str) -> str:
    """One of TEXTS, downloaded with apt-get where it is not yet in the cache."""
    folder, member = cache_folder() / "texts" / package, TEXTS[package]
    if not (folder / member).exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
        (archive,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    return gzip.decompress((folder / member).read_bytes()).decode()


def sections(text: str) -> list[Section]:
    """The numbered sections of such a text that are not empty; its table of contents is indented and none of them."""
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    found = [
        Section(_one_line(heading[1]), _one_line(text[heading.end() : end]))
        for heading, end in zip(headings, ends, strict=True)
    ]
    return [section for section in found if section.body]


def _one_line(text: str) -> str:
    return " ".join(text.split())
