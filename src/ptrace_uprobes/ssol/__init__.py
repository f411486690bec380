"""Single-step out of line: plans, slots and the stepper."""
