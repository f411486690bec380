"""Who takes part in a contest: the plain-C loops, ours, the kernel's probes and other tools."""
