"""Distilling: a frozen dataset in, a small measured detector with a report out.

Only the files ``model``, ``loss``, ``augment``, ``loop``, ``checkpoints`` and ``export`` need
torch; reading a dataset and scoring a detector do not.
"""
