"""How this machine reaches its package indexes, for trees that are to reach them likewise."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
PIP_FILES = (
    Path("/etc/pip.conf"),
    Path.home() / ".config/pip/pip.conf",
    Path.home() / ".pip/pip.conf",
)
INSIDE = Path("/etc/visrec-matrix")  # where a tree has its copies


def archive() -> str:
    """The address of the Debian archive that this machine uses."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in listed.splitlines():
        address, _, label = line.partition(" ")
        if label == "Debian":
            return address
    return "http://deb.debian.org/debian"


def apt_settings() -> str:
    """What apt is told here about fetching: proxies, certificates."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    kept = [line for line in dump.splitlines() if re.match(r'Acquire::[^ ]+ "[^"]+";$', line)]
    return "".join(line + "\n" for line in kept if re.match(r"(?i)acquire::(https?|ftp)::", line))


def environment() -> dict[str, str]:
    """pip's settings, the proxies, and the certificates where a tree has its copy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("PIP_") and name != "PIP_CONFIG_FILE") or name in PROXIES
    }
    for name in CERTIFICATES:
        if name in os.environ:
            kept[name] = str(INSIDE / Path(os.environ[name]).name)
    return kept


def certificates() -> set[Path]:
    return {Path(os.environ[name]) for name in CERTIFICATES if name in os.environ}


def pip_files() -> list[Path]:
    named = os.environ.get("PIP_CONFIG_FILE")
    return [file for file in ([Path(named)] if named else PIP_FILES) if file.is_file()]


def directories() -> set[Path]:
    """Directories of this machine from which pip takes packages."""
    values = [value for name, value in os.environ.items() if name.startswith("PIP_")]
    for file in pip_files():
        settings = configparser.RawConfigParser()
        settings.read(file)
        values += [value for section in settings.values() for value in section.values()]
    found = set()
    for word in " ".join(values).split():
        if word.startswith("file:"):  # an index: its links lead beside it
            found.add(Path(unquote(urlsplit(word).path)).parent)
        elif word.startswith("/") and Path(word).is_dir():
            found.add(Path(word))
    return {directory for directory in found if directory.is_dir()}
