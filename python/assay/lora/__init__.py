"""LoRA adapters: requests for them can be written down; none can be loaded yet."""
