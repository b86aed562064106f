"""FER-ViT Lab: Vision Transformers over StyleGAN codes for facial expression recognition."""
