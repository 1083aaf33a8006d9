"""``python -m pellucid`` is the ``pellucid`` program."""

from pellucid.cli import main

if __name__ == "__main__":
    main()
