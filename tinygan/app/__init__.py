"""``tinygan-app``: a page in the browser that finds the faces of one photograph at a time."""
