"""What a round costs by size, and what 8,448 CTs would take."""
