"""`python -m attune` is the same program as `attune`."""

from attune.cli import main

if __name__ == "__main__":
    main()
