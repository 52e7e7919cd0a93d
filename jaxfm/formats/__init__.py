"""A trained model as a program that other libraries run: ONNX and StableHLO."""
