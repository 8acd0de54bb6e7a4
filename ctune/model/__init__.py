"""The network: a frozen base shared by all classes, and one small head a class."""
