"""The command `latent-ext`: its list of commands, and how a call ends.

It stands beside the package `latent_ext` and imports it only when a command is called. Importing `latent_ext` registers its
classes with transformers and so loads transformers and torch, which ``--help`` and ``--version`` need not wait for.
"""
