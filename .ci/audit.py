"""Looks up known advisories of the pinned dependencies: `python .ci/audit.py [constraints.txt]`; `make audit` calls it.

pip-audit asks the package index for each package and counts one that it could not look up as free of advisories. Here
such a package is an error. Exit code 0: all were looked up and none has an advisory; 1: some have one; 2: not all could
be looked up.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner=off", "--timeout=30", "--format=json")
EXIT_FOUND, EXIT_UNKNOWN = 1, 2
_SHOWN = 5


def judge(output: str, errors: str) -> tuple[int, list[str]]:
    """Returns the exit code and lines for a person, of what pip-audit printed."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = errors.strip().splitlines()[-1:] or ["it said nothing"]
        return EXIT_UNKNOWN, [f"error: the advisories could not be looked up ({said[0][:300]})."]
    unknown = [each for each in packages if "vulns" not in each]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}"
        + (f", repaired in {', '.join(found['fix_versions'])}" if found.get("fix_versions") else "")
        for each in packages
        for found in each.get("vulns", ())
    ]
    code = EXIT_FOUND if lines else 0
    if unknown or not packages:
        names = ", ".join(each["name"] for each in unknown[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else "")
        lines.append(
            f"error: {len(unknown):,} of {len(packages):,} packages could not be looked up "
            f"({names or 'none is pinned'}): the service of advisories was not reached, or does not know them. "
            "Nothing is known of these."
        )
        code = code or EXIT_UNKNOWN
    return code, lines or [f"{len(packages):,} packages, no known advisory"]


def main(argv: Sequence[str]) -> int:
    """Runs pip-audit on a file of pinned versions and prints what it found; returns the exit code."""
    pinned = argv[0] if argv else "constraints.txt"
    command = [str(pathlib.Path(sys.executable).with_name("pip-audit")), f"--requirement={pinned}", *OPTIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        code, lines = judge(done.stdout, done.stderr)
    except FileNotFoundError:
        code, lines = EXIT_UNKNOWN, ["error: pip-audit is not installed: pip install 'jaxfm-encoders[dev]'."]
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
