"""A probe on every instruction of many functions of real libraries, at once, while they work."""
