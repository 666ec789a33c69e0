"""Adapters to the models. Only here, and in the demo's recipes, is torch imported."""
