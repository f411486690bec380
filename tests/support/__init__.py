"""What the integration tests and the benchmarks stand on; nothing here uses ptrace_uprobes,
except `probed.py`, which runs it."""
