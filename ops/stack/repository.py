"""Where Maven artefacts come from: a setting, else the mirror of Maven's own settings, else jgo's default."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

MIRRORS_ALL = {"*", "external:*", "external:http:*", "central"}


def repository_base(configured: str | None, maven_settings: Path | None = None) -> str:
    """Base URL of the repository to ask, without a slash at its end.

    ``configured`` is the setting ``stack.maven_repository``; ``maven_settings`` defaults to the user's
    ``~/.m2/settings.xml``, whose mirror of the central repository a company's network may require.
    """
    if configured:
        return configured.rstrip("/")
    mirror = mirror_of_central(maven_settings or Path.home() / ".m2" / "settings.xml")
    if mirror:
        return mirror.rstrip("/")
    from jgo.constants import MAVEN_CENTRAL_URL

    return str(MAVEN_CENTRAL_URL).rstrip("/")


def mirror_of_central(maven_settings: Path) -> str | None:
    """Read the mirror of the central repository out of Maven's user settings; None if there is none."""
    try:
        root = ET.parse(maven_settings).getroot()  # noqa: S314 - the user's own file, as Maven itself reads it
    except (OSError, ET.ParseError):
        return None
    for mirror in root.iterfind("{*}mirrors/{*}mirror"):
        of = {word.strip() for word in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        url = (mirror.findtext("{*}url") or "").strip()
        if url and of & MIRRORS_ALL and "!central" not in of:
            return url
    return None
