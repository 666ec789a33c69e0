"""The page and the RPCs over HTTP: one bridge that knows no service by name.

A call by HTTP is a gRPC call to the own server: the same servicers answer behind the same
interceptors, with the same bounds, deadlines and errors, and are counted in the same metrics.
"""
