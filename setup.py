"""The long description: README as a package index can show it; all else is in pyproject.toml."""

import re
from pathlib import Path

ADDRESS = ""  # where the repository's files lie on the web, once they do: "https://…/raw/main/"


def for_an_index(readme: str, address: str = ADDRESS) -> str:
    """Make relative links and pictures absolute; while there is no address, keep their words."""
    relative = r"(!?)\[([^\]]*)\]\((?!https?:)([^)]*)\)"
    if address:
        return re.sub(relative, rf"\1[\2]({address}\3)", readme)
    return re.sub(relative, lambda m: f"*(Picture: {m[2]}.)*" if m[1] else m[2], readme)


if __name__ == "__main__":
    from setuptools import setup

    setup(
        long_description=for_an_index(Path(__file__).with_name("README.md").read_text("utf-8")),
        long_description_content_type="text/markdown",
    )
