"""Benchmarks: ``python -m bench``. Scripted models and fault injection come from tests/support."""
