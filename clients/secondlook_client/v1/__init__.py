"""Compiled from the protos by ``protos/generate.py``; not written by hand."""
