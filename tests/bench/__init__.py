"""Measurements, each a command: `python -m tests.bench.NAME`. None is a test."""
