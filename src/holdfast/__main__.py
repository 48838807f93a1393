"""The command `holdfast`, also `python -m holdfast`; its words are in `holdfast.cli`."""

import sys

from holdfast.core.errors import MissingExtraError
from holdfast.core.exits import exit_of


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        from holdfast.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        missing = MissingExtraError(feature="the command line", extra="cli")
        sys.stderr.write(f"{missing}\n")
        sys.exit(int(exit_of(missing)))
    sys.exit(run())


if __name__ == "__main__":
    main()
