"""Datasets: what a query finds in the store, frozen under a name, and what is made from it."""
