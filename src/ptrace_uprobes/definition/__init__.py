"""The notation in which a user writes a probe."""
