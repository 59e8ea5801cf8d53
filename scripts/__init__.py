"""The maintainers' commands: python -m scripts.<name>."""
