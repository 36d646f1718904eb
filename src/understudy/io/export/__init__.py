"""Students for use elsewhere: ONNX, TorchScript, C, Stable-Baselines3, Unity."""
