# Loading the library registers the ops of torch.ops.latent_ext; it offers nothing else.
