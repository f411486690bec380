"""The command: one module a command; errors are caught in one place."""
