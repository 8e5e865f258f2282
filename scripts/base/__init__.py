"""How the embedded base is made: pictures -> autoencoder -> denoiser -> a diffusers folder, measured."""
