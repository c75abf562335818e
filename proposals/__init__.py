"""First stages: detectors that propose boxes for tinygan's second stage.

They are announced as entry points of the group ``tinygan.proposers`` (setup.cfg); see :mod:`tinygan.proposers`.
"""
