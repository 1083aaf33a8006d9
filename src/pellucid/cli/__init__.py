"""The command line: one short file a command, each cheap to import; what a command needs is imported when it runs."""

from __future__ import annotations


def main() -> None:
    """The ``pellucid`` program."""
    from pellucid.cli.app import run

    run()
