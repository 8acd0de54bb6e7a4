"""Full training against a plain MONAI loop."""
