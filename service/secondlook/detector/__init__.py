"""The student on a device: numpy, Pillow and onnxruntime; never torch, grpc or the store."""
