"""The gRPC services: one thin servicer each, and what keeps them running.

    app ─▶ labeling ─▶ AdmissionControl ─▶ engine      one image in, one answer out
              └──────▶ streams ─▶ AdmissionControl     frames in, the newest first
    app ─▶ jobs, datasets, models ─▶ store             base class in store_calls

``interceptors`` (errors to statuses, logs, metrics) stands around every call; ``converters`` turn
messages into values and back.
"""
