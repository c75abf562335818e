"""Evaluators of detections and of images, one module per protocol.

A new protocol is a module here, a module of the same name in ``tinygan/cli/evaluate/`` and a row of the table there.
"""
