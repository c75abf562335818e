"""The page of ``tinygan-report``: what the second stage changed, as one HTML file that needs no network."""
