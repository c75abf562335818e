"""First stages: detectors that propose boxes for tinygan's second stage."""
