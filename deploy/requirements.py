"""Print the dependencies in pyproject.toml, one on a line, with those of the extras that are named as arguments."""

import sys
import tomllib


def requirements(project, extras):
    """Return the requirements of a `[project]` table and of its extras.

    Raises: SystemExit for an extra that the project does not have.
    """
    optional = project["optional-dependencies"]
    if unknown := sorted(set(extras) - set(optional)):
        raise SystemExit(f"extras {unknown}: not in pyproject.toml; expected some of {sorted(optional)}")
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


if __name__ == "__main__":
    with open("pyproject.toml", "rb") as file:
        print(*requirements(tomllib.load(file)["project"], sys.argv[1:]), sep="\n")
