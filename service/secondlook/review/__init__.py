"""Stored results, used again: redecide a run, compare two runs, explain a label."""
