"""The `latent-ext` command."""
