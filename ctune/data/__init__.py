"""From image files to arrays and back: reading, geometry, patches, the pool, layouts, phantoms."""
