"""The paper's protocol on phantoms."""
