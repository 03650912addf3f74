"""Data sets in their own layout on disk: one reader each."""
