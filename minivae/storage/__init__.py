"""Files that survive a bad day and are not trusted. Upwards: a file, an archive, a model, a VAE, a training, a folder."""
