"""Synthetic abdominal CTs with the masks of nine organs: the same seed gives the same bytes, on any machine of a kind.

``anatomy`` says where everything lies in millimetres, ``scan`` turns that into Hounsfield units on a grid, ``cohort``
writes cases to disk.
"""

from ctune.data.phantom.cohort import write_cohort
from ctune.data.phantom.scan import SIZES, Phantom, make_phantom

__all__ = ["SIZES", "Phantom", "make_phantom", "write_cohort"]
