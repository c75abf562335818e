"""The second stage in other people's pipelines, one module per package, which is imported only when it is used.

Each has one function, of that package's own result and a :class:`tinygan.SecondStage`; it returns a new result of the
same kind, by falling score, and leaves the given one as it is. All of its boxes are taken for faces: of several
classes, give those of the face alone.
"""
