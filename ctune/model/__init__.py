"""The shared base, the class-specific heads, and what puts them together and freezes them."""
