"""Shared fixtures; one thread per test process, so that the suite behaves alike next to other jobs."""
