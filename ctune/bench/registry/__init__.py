"""The registry of ten thousand versions, beside plain writes and MLflow."""
