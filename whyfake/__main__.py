"""`python -m whyfake` is the command `whyfake`."""

from .cli import main

if __name__ == "__main__":
    main()
