"""Models to and from the formats of others: ONNX, safetensors, PyTorch's state-dicts. No framework is imported for any."""
