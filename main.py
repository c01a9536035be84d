"""`python main.py` is `swarm`. Any Python can read this file: one that is too old is told so, not shown a traceback."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file is what says so
    sys.stderr.write(
        "swarm: this needs Python 3.11 or newer, and " + sys.executable + " is " + sys.version.split()[0] + ". In a "
        "checkout start with ./scripts/run instead, which finds a newer one and makes an environment in .venv; it "
        "names what to install where there is none.\n"
    )
    sys.exit(2)

if __name__ == "__main__":
    from swarm.cli import main

    sys.exit(main())
