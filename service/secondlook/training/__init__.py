"""Distillation: a frozen dataset in, a small measured detector with a report out.

``distill`` is the whole of it, ``trainer`` the training with its step, ``export`` what follows.
"""
