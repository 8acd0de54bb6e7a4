"""Continual tuning against full training."""
