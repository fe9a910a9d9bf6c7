"""Any ONNX file with one image input."""
