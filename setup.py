"""What pyproject.toml cannot say: configs/ and launch/ are packed into the package, and links leave the checkout.

The repository's address stands in pyproject.toml alone ([tool.jaxfm]). The project's URLs are made from it, and so are
the links and images of README.md, which the page of a package index could not find by relative paths.
"""

import pathlib
import re
import tomllib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
PICTURES = (".png", ".svg")
# Folders of the checkout -> the package that they are in a wheel; jaxfm/programs/shipped.py finds both.
BESIDE = {
    "configs": "jaxfm.configs",
    "launch": "jaxfm.launch",
    "launch/environment": "jaxfm.launch.environment",
}


def with_absolute_links(markdown: str, repository: str) -> str:
    """Returns the text with relative links and pictures as addresses of the repository (GitHub's form)."""

    def absolute(found: re.Match[str]) -> str:
        path = found[1]
        kind = "raw" if path.lower().endswith(PICTURES) else "blob"
        return f"]({repository}/{kind}/HEAD/{path})"

    return re.sub(r"\]\((?!https?:|mailto:|#)([^)\s]+)\)", absolute, markdown)


if __name__ == "__main__":
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["jaxfm"]
    address = own["repository"]
    setup(
        packages=[*find_packages(str(ROOT), include=["jaxfm", "jaxfm.*"]), *BESIDE.values()],
        package_dir={package: folder for folder, package in BESIDE.items()},
        long_description=with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), address),
        long_description_content_type="text/markdown",
        project_urls={
            "Repository": address,
            "Documentation": f"{address}/tree/HEAD/docs",
            "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
            "Issues": f"{address}/issues",
        },
    )
