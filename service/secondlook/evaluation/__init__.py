"""How good labels and students are: matching, average precision, calibration, figures of runs."""
