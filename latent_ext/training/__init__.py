"""Labels from roll-outs, and a LatentRM trained on them."""
