"""The trained student as an ONNX file: graph, optimisation, precision, parity."""
