"""The agent on a device: looks at images with a student, sends back what is worth learning from.

It runs for weeks with nobody near: needs onnxruntime, numpy, Pillow and grpcio, never torch, and
keeps memory and disk bounded. ``agent`` is the loop that everything else is handed to.
"""
