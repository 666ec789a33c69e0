"""The embedded default: a drawn world, small models trained on it, and the recipes for both."""
