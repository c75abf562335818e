"""Presets that describe detectors in ONNX files."""
