"""The sliding window, from a CT to masks on its own grid, a slab at a time: memory follows a slab, not volume x classes.

``windows`` says where windows lie and which hold body, ``runtime`` what runs in them, ``slabs`` blends them, ``blocks`` brings
slabs back onto the CT's grid, ``output`` writes them, ``engine`` joins these for one case and for many.
"""
