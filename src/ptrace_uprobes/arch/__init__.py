"""Facts of the architectures that can be probed."""
