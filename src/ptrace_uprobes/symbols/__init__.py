"""Names to places: ELF images, separate debug files, and the modules of a process."""
