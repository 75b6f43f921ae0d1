"""``python -m latent_ext_cli``: the same as `latent-ext`."""

from latent_ext_cli.app import main

main()
