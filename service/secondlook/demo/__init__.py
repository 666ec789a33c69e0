"""The embedded default: a world of rendered street scenes with exact truth."""
