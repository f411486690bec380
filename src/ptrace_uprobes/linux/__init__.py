"""The edge to the kernel: its integers become frozen values here."""
