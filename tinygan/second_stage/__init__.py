"""The second stage: a detector's boxes in, the judge's opinion on each, rescored boxes out."""
