"""What bench/gpu.py is made of: models on the device, baselines, checks, timing, cells, targets, the table."""
