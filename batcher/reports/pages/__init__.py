"""Pages to look at: their frame, their pictures and tables, and the files that they are written to.

Invariant: all text is escaped by `escape.text`, nothing is loaded from elsewhere, and no script of others runs.
"""
