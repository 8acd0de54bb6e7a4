"""Benchmarks: what the loop costs and gives, measured and kept as documents that can be compared.

``catalogue`` names them, ``run`` runs one, ``result`` is what a run leaves, ``report`` tells of all. Each benchmark is a folder:
``protocol`` says what is measured in which order and holds what the catalogue calls, ``chapter`` and ``plots`` are what the report
tells of it. What several share stands here: ``study``, ``parts``, ``statistics``, ``machine``.
"""
