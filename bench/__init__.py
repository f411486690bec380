"""Measurements, each beside its baseline in the same run. No test asserts what they find."""
