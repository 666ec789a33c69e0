"""The agent on a device: detects with a student, and sends back the frames worth learning from.

It runs unattended for weeks: it needs onnxruntime, numpy, Pillow and grpcio, never torch, and its
memory and disk are bounded. ``agent`` is the loop, ``app`` builds it from settings.
"""
