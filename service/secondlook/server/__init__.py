"""The gRPC service: one thin servicer, and everything that keeps it standing.

app ─▶ labeling ─▶ intake ─▶ engine        one image in, one answer out
          └─────▶ stream ─▶ intake         frames in, newest first to be served
interceptors (errors, logs, metrics) stand around every call of ours
"""
