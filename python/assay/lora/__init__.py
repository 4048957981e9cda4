"""LoRA adapters: requests for them, their files, and a checkpoint as one changes it."""
