"""Datasets: snapshots of the store, files read and written, and the samples of a training."""
