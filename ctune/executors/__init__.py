"""Where work over many cases is done: this machine, or a Ray cluster."""
