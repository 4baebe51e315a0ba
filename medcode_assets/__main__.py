"""`python -m medcode_assets`: the `medcode` command."""

from medcode_assets.cli import main

if __name__ == "__main__":
    main()
