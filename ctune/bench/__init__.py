"""Benchmarks: what the loop costs and gives, measured and kept as documents that can be compared.

``catalogue`` names them, ``run`` runs one, ``result`` is what a run leaves; each benchmark is a file of its own.
"""
