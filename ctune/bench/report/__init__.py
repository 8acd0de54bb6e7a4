"""The pages of all results: what is told of them, and how it is written."""
