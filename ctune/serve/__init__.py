"""The service: a model of the registry, or of an exported folder, behind HTTP.

``source`` says where a model comes from, ``parts`` and ``model`` hold it in memory, ``intake`` takes a CT in within limits,
``segment`` makes an answer of it, ``work`` does one after the other, ``app`` speaks HTTP.
"""
