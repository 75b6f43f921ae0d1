"""Plugging into Hugging Face: `accelerate`, `generate`, Auto classes, shared-prompt attention."""
