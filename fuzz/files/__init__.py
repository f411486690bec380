"""Hostile files: what every reader of files does with them. `python -m fuzz.files`."""
