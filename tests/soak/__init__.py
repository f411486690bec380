"""The soak: an engine and a fleet of programs under a mixed load, with exact books kept."""
