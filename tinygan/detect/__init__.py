"""First and second stage in one call, and over files: photographs and videos in, boxes and pictures out."""
