"""Rounds that add one class each: what is lost of the others, beside rivals."""
