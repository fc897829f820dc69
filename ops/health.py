"""`python -m ops.health URL…`: whether every address answers with success; the health check of our images.

An image of Python's has no curl; importing nothing but the standard library keeps a check cheap.
"""

from __future__ import annotations

import sys
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 4.0


def healthy(url: str) -> str:
    """Ask one address; empty if it is well, else what is wrong."""
    try:
        # No proxy: the address is in the container itself. An answer of 400 or above is raised as an OSError.
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S):
            return ""
    except (OSError, HTTPException, ValueError) as error:
        return f"{url}: {error}"


def main(urls: list[str]) -> int:
    """Ask every address; the exit code is 1 if one is not well, and what is wrong is printed."""
    problems = [problem for url in urls if (problem := healthy(url))]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems or not urls else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
