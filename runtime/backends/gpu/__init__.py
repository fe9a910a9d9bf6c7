"""GPU backends: TensorRT and ONNX Runtime CUDA, and the CUDA they share."""
