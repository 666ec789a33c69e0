"""The recipe of the calibrator that comes with the embedded models."""
