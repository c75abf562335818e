"""Evaluators of detections and of images."""
